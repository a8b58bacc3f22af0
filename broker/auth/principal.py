"""Principals and the one question asked of them. Floor 2."""

import re
from dataclasses import dataclass, field

from broker.auth.grant import EVERYTHING, Grant, Resource, Verb
from broker.core.errors import BrokerError, Code

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


@dataclass(slots=True, eq=False)
class Principal:
    """Somebody who asks; `name` goes to logs and audit. There is one object per principal, and `grants` change in it.

    `topics` are those that it was found allowed to publish to, kept so that the question is not asked for each message;
    emptied when the grants change."""

    name: str
    grants: tuple[Grant, ...] = ()
    topics: set[str] = field(default_factory=set, repr=False)


LOCAL = Principal("local", (EVERYTHING,))
"""Any client on a loopback or unix socket when there is no `[auth]`."""

BROKER = Principal("$broker", (EVERYTHING,))
"""The daemon's own connectors."""

NOBODY = Principal("nobody")
"""Who has not said yet who they are."""


def authorize(principal: Principal, verb: Verb, resource: Resource) -> bool:
    """May `principal` do `verb` on the resource, on all of it? Without a grant that says so, nobody may."""
    return any(grant.allows(verb, resource) for grant in principal.grants)


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
