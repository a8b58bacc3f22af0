"""Principals and the one question asked of them. Floor 2."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from broker.auth.grant import EVERYTHING, Grant, Kind, Resource, Verb
from broker.core.errors import BrokerError, Code

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


MAX_TOPICS, MAX_OWN_TOPICS = 20_000, 1_000
"""Topics that a principal, and one of its clients, is remembered to be allowed to publish to."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Principal:
    """Somebody who asks; `name` goes to logs and audit. There is one object per principal, and `grants` change in it.

    `grants` are filled in: see `Grant.filled`. `topics` are those that it was found allowed to publish to, kept so that
    the question is not asked for each message; emptied when the grants change. `client`: the MQTT client that asks in
    its name, see `as_client`."""

    name: str
    grants: tuple[Grant, ...] = ()
    topics: set[str] = field(default_factory=set, repr=False)
    client: str = ""
    _written: tuple[Grant, ...] = field(default=(), init=False, repr=False)
    _most: int = field(default=MAX_TOPICS, init=False, repr=False)
    _clients: "WeakValueDictionary[str, Principal] | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._written = self.grants
        self.grants = _filled(self)

    def regrant(self, grants: tuple[Grant, ...]) -> None:
        """It may do this from now on, and so may those who ask in its name as MQTT clients."""
        self._written = grants
        self.grants = _filled(self)
        self.topics.clear()
        for client in () if self._clients is None else list(self._clients.values()):
            client._inherit(self)

    def as_client(self, client: str) -> "Principal":
        """The same principal, asking as this MQTT client: what its grants allow `%c` is allowed to it. One object as
        long as somebody holds it."""
        if self is LOCAL or self is BROKER:  # they may do everything for ever
            return self
        if self._clients is None:
            self._clients = WeakValueDictionary()
        found = self._clients.get(client)
        if found is None:
            found = self._clients[client] = Principal(self.name, client=client)
            found._inherit(self)
        return found

    def _inherit(self, principal: "Principal") -> None:
        """Take over its grants; and what is remembered, unless that depends on who asks."""
        self._written = principal._written
        self.grants = _filled(self)
        own = any("%c" in grant.placeholders() for grant in self._written)
        self.topics = set() if own else principal.topics
        self._most = MAX_OWN_TOPICS if own else MAX_TOPICS

    def remember(self, topic: str) -> None:
        """It was found allowed to publish to it."""
        if len(self.topics) >= self._most:
            self.topics.clear()
        self.topics.add(topic)


def _filled(principal: Principal) -> tuple[Grant, ...]:
    filled: Iterable[Grant | None] = [grant.filled(principal.name, principal.client) for grant in principal._written]
    return tuple(grant for grant in filled if grant is not None)


LOCAL = Principal("local", (EVERYTHING,))
"""Any client on a loopback or unix socket when there is no `[auth]`."""

BROKER = Principal("$broker", (EVERYTHING,))
"""The daemon's own connectors."""

NOBODY = Principal("nobody")
"""Who has not said yet who they are."""


def authorize(principal: Principal, verb: Verb, resource: Resource) -> bool:
    """May `principal` do `verb` on the resource, on all of it? Without a grant that says so, nobody may."""
    return any(grant.allows(verb, resource) for grant in principal.grants)


def key_prefixes(principal: Principal, prefix: str) -> list[str]:
    """Of the keys that begin with `prefix`, the beginnings of those that it may do something with, in order; none is
    within another."""
    found: set[str] = set()
    for grant in principal.grants:
        if grant.on is not None and grant.on.kind is not Kind.KEY:
            continue
        name = "*" if grant.on is None else grant.on.name
        if name.endswith("*") and prefix.startswith(name[:-1]):
            return [prefix]
        if name.startswith(prefix):
            found.add(name.removesuffix("*"))
    outer: list[str] = []
    for name in sorted(found):
        if not outer or not name.startswith(outer[-1]):
            outer.append(name)
    return outer


def is_admin(principal: Principal) -> bool:
    """May it do everything, and say who may do what?"""
    return EVERYTHING in principal.grants


def is_principal_name(name: object) -> bool:
    """Is it made like the name of a principal?"""
    return type(name) is str and _NAME.fullmatch(name) is not None


def check_principal_name(name: object) -> str:
    """Return the name if a principal may have it. Raises BAD_OPTION."""
    if type(name) is not str or not is_principal_name(name):
        raise BrokerError(Code.BAD_OPTION, f"{name!r} is no name: letters, digits, '.', '_', '-', '@', at most 128")
    if name in (LOCAL.name, NOBODY.name):
        raise BrokerError(Code.BAD_OPTION, f"{name!r} is taken by the broker; choose another name")
    return name
