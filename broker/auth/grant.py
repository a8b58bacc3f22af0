"""What a principal may be allowed to do: a verb on topics, on subscriptions or on keys. Deny by default.

A grant is written `VERB RESOURCE`. A resource is a topic filter as it stands (`orders/#`), or `subscription:NAME`, or
`key:KEY`; a last `*` in a name or key stands for any ending. `topic:FILTER` says topic where a filter itself begins
with such a word and a colon. A grant on a filter covers a filter only when it matches every topic that the other can
match; topics that begin with `$` are covered only by grants that name that beginning (`$dead/#`, not `#`).

In a topic filter `%u` stands for the principal's name and `%c` for the identifier of the MQTT client that asks, so that
one grant, `publish devices/%u/#`, holds for each of many in its own place. They stand for text within one level and
for nothing else, and in keys they are refused: see `Grant.filled`. A client chooses its identifier itself; where
clients of one principal must not reach each other's topics, give each its own principal and write `%u`.

| grant | allows |
|---|---|
| `publish FILTER` | publish to these topics, list them. Answers of request and reply need `publish $reply/#` |
| `consume FILTER` | read, follow and tap these topics, list them, make subscriptions of them |
| `consume subscription:NAME` | be a worker or reader of it, settle, peek, see its settings and counts |
| `consume key:KEY` | read these keys of the key/value store |
| `consume $dead/NAME` | read the dead letters of a queue |
| `consume $sys/status`, `$sys/metrics`, `$sys/connections` | `status`, `/metrics`, connections, MQTT clients |
| `manage FILTER` | see and cancel scheduled messages of these topics, delete what MQTT retains of them |
| `manage subscription:NAME` | make (with `consume` on its topics), change, pause, purge, redrive, delete it; secret |
| `manage key:KEY` | write and delete these keys |
| `manage $sys/connections` | close connections, end MQTT sessions |
| `admin` | all of the above, and principals: tokens, grants, passwords |

No verb implies another but `admin`. Nobody publishes to the broker's own topics but to `$reply/…`, whatever the grant.
Floor 2.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from broker.core.errors import BrokerError, Code
from broker.core.topic import check_filter, covers

_PLACEHOLDER = re.compile("%[cu]")
_WITHIN_A_LEVEL = re.compile("[^/+#\x00-\x1f\x7f-\x9f]+")
_NAMES = re.compile(r"[A-Za-z0-9._-]{0,128}\*?")
MAX_KEY = 512


class Verb(StrEnum):
    """What a principal may be allowed to do; see the module."""

    PUBLISH = "publish"
    CONSUME = "consume"
    MANAGE = "manage"
    ADMIN = "admin"


class Kind(StrEnum):
    """What a resource is."""

    TOPIC = "topic"
    SUBSCRIPTION = "subscription"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Resource:
    """What a verb is done to: a topic or filter, the name of a subscription, a key; in grants also patterns of them."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        bare = self.kind is Kind.TOPIC and self.name.partition(":")[0] not in set(Kind)
        return self.name if bare else f"{self.kind.value}:{self.name}"

    def covers(self, other: "Resource") -> bool:
        """Is the other one, all of it, within this one?"""
        if self.kind is not other.kind:
            return False
        if self.kind is Kind.TOPIC:
            return covers(self.name, other.name)
        if self.name.endswith("*"):
            return other.name.startswith(self.name[:-1])
        return self.name == other.name


def on_topic(name: str) -> Resource:
    """A topic, or all topics of a filter."""
    return Resource(Kind.TOPIC, name)


def on_subscription(name: str) -> Resource:
    """A queue or stream."""
    return Resource(Kind.SUBSCRIPTION, name)


def on_key(name: str) -> Resource:
    """A key of the key/value store."""
    return Resource(Kind.KEY, name)


STATUS, METRICS, CONNECTIONS = map(on_topic, ("$sys/status", "$sys/metrics", "$sys/connections"))


@dataclass(frozen=True, slots=True)
class Grant:
    """See the module. `on` is None for `admin` alone."""

    verb: Verb
    on: Resource | None = None

    def __str__(self) -> str:
        return self.verb.value if self.on is None else f"{self.verb.value} {self.on}"

    def allows(self, verb: Verb, resource: Resource) -> bool:
        """Does it say yes to this?"""
        return self.on is None or (verb is self.verb and self.on.covers(resource))

    def placeholders(self) -> set[str]:
        """Those that it has: `%c`, `%u`."""
        return set(_PLACEHOLDER.findall(self.on.name)) if self.on is not None and self.on.kind is Kind.TOPIC else set()

    def filled(self, user: str, client: str) -> "Grant | None":
        """The grant as it holds for this principal, asking as this MQTT client ("": as none); None when it does not.

        A name or identifier with `/`, `+`, `#` or a control character in it, or that would make of a filter one of
        topics that begin with `$`, never matches: it could reach further than the level that it stands for. What is put
        in is not looked at again, so that a client that calls itself `%u` is just that.
        """
        wanted = self.placeholders()
        if not wanted or self.on is None:
            return self
        values = {"%c": client, "%u": user}
        if not all(stays_in_its_level(values[name]) for name in wanted):
            return None
        text = _PLACEHOLDER.sub(lambda found: values[found[0]], self.on.name)
        if text.startswith("$") and not self.on.name.startswith("$"):
            return None
        try:
            return Grant(self.verb, on_topic(check_filter(text)))
        except BrokerError:  # too long
            return None


def stays_in_its_level(text: str) -> bool:
    """Can it stand for one level of a topic as it is?"""
    return _WITHIN_A_LEVEL.fullmatch(text) is not None


EVERYTHING = Grant(Verb.ADMIN)


def parse_grant(text: object) -> Grant:
    """Read `publish orders/#`, `consume subscription:mailer`, `admin`. Raises BAD_OPTION, BAD_FILTER."""
    verb, _, resource = text.strip().partition(" ") if type(text) is str else ("", "", "")
    resource = resource.strip()
    if verb not in set(Verb):
        raise BrokerError(Code.BAD_OPTION, f"{text!r} begins with no verb; there are {', '.join(Verb)}")
    if verb == Verb.ADMIN:
        if resource:
            raise BrokerError(Code.BAD_OPTION, "admin goes without a resource: it allows everything")
        return EVERYTHING
    on = parse_resource(resource)
    if verb == Verb.PUBLISH and on.kind is not Kind.TOPIC:
        raise BrokerError(Code.BAD_OPTION, f"publish goes with a topic filter, not with {on}")
    return Grant(Verb(verb), on)


def parse_resource(text: str) -> Resource:
    """Read a resource as grants write it. Raises BAD_OPTION, BAD_FILTER."""
    kind, colon, name = text.partition(":")
    if not colon or kind not in set(Kind):
        return on_topic(check_filter(text))
    if kind == Kind.TOPIC:
        return on_topic(check_filter(name))
    good = _NAMES.fullmatch(name) if kind == Kind.SUBSCRIPTION else len(name) <= MAX_KEY and name.isprintable()
    if kind == Kind.KEY and _PLACEHOLDER.search(name):
        raise BrokerError(Code.BAD_OPTION, f"{text!r}: %u and %c stand for names in topic filters only; write the name")
    if not name or not good:
        raise BrokerError(Code.BAD_OPTION, f"{text!r}: write {kind}:NAME, or {kind}:BEGINNING* for all that begin so")
    return Resource(Kind(kind), name)
