"""How long the log keeps what nobody needs any more: the agreement per topic filter, and the choice of what to drop.

It decides which offsets of one topic are surplus by age, bytes, count or a newer message of the same key. It leaves to
the engine what is pinned (what a queue has not settled is never surplus), which offset an age comes down to, and
the deleting itself. Floor 0.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pyroaring import BitMap64

from broker.core.duration import parse_duration
from broker.core.errors import BrokerError, Code
from broker.core.size import parse_size
from broker.core.topic import check_filter, matches

_LIMITS = ("age", "bytes", "count", "latest")
_KEYS = (*_LIMITS, "durability")
_NOTHING = BitMap64()


class Durability(StrEnum):
    """`fsync`: on disk before anyone is answered. `memory`: passed on to who listens now, never stored."""

    FSYNC = "fsync"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Retention:
    """What one topic keeps of its settled or unwanted messages: `age` in ms, `bytes` and `count` of the newest; None
    means without limit. A message goes as soon as one limit says so. `latest` keeps only the last message of each key
    (those without a key count as one key), within the other limits."""

    age: int | None = 86_400_000
    bytes: int | None = 1 << 30
    count: int | None = None
    latest: bool = False


FOR_EVER = Retention(age=None, bytes=None)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the topics of one filter agreed on."""

    filter: str
    retention: Retention = field(default_factory=Retention)
    durability: Durability = Durability.FSYNC


BUILT_IN = (
    Policy("$dead/#", FOR_EVER),
    Policy("$reply/#", durability=Durability.MEMORY),
    Policy("$sys/audit", Retention(age=90 * 86_400_000)),
)
DEFAULT = Policy("#")


class Policies:
    """The policies in order: the first whose filter matches holds, then the built-in ones (`$dead/#` is kept until
    redriven or purged, `$reply/#` lives in memory, `$sys/audit` is kept for 90 days), then the default (24 h or 1 GiB
    per topic)."""

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        self._policies = (*policies, *BUILT_IN)

    @classmethod
    def parse(cls, entries: Mapping[str, Any]) -> "Policies":
        """Read `{filter: {age, bytes, count, latest, durability}}` in its order. Raises BAD_FILTER, BAD_OPTION."""
        return cls(parse_policy(filter_, options) for filter_, options in entries.items())

    def of(self, topic: str) -> Policy:
        """The policy of one topic; engines ask once per topic and keep the answer."""
        return next((p for p in self._policies if matches(p.filter, topic)), DEFAULT)

    def wants(self, topic: str) -> bool:
        """Does a policy that names this topic want it stored, even what nobody asked to be?"""
        policy = self.of(topic)
        return policy is not DEFAULT and policy.durability is Durability.FSYNC


def parse_policy(filter_: str, options: Any) -> Policy:
    """Build a Policy from plain values. Raises BAD_FILTER, BAD_OPTION (naming filter, key and what fits).

    Who names one limit has named them all: what is not given is without limit. Only an entry without any limit keeps
    the default ones. `age = "forever"` says that nothing is dropped.
    """
    where = f"retention of {check_filter(filter_)!r}"
    if not isinstance(options, Mapping) or set(options) - set(_KEYS):
        raise BrokerError(Code.BAD_OPTION, f"{where} is a map of {', '.join(_KEYS)}")
    try:
        durability = Durability(options.get("durability", Durability.FSYNC))
    except ValueError:
        raise BrokerError(Code.BAD_OPTION, f"{where}: durability must be fsync or memory") from None
    return Policy(filter_, _parse_retention(where, options), durability)


def _parse_retention(where: str, options: Mapping[str, Any]) -> Retention:
    if not any(options.get(name) is not None for name in _LIMITS):
        return Retention()
    age, size, count, latest = (options.get(name) for name in _LIMITS)
    if count is not None and (type(count) is not int or count < 1):
        raise BrokerError(Code.BAD_OPTION, f"{where}: count must be a whole number of at least 1")
    if latest is not None and type(latest) is not bool:
        raise BrokerError(Code.BAD_OPTION, f"{where}: latest must be true or false")
    return Retention(
        age=None if age in (None, "forever") else parse_duration(age, f"{where}: age"),
        bytes=None if size is None else parse_size(size, f"{where}: bytes"),
        count=count,
        latest=bool(latest),
    )


def surplus(
    retention: Retention,
    offsets: BitMap64,
    *,
    before: int = 0,
    pages: Iterable[tuple[BitMap64, int]] = (),
    pinned: BitMap64 = _NOTHING,
    superseded: BitMap64 = _NOTHING,
) -> BitMap64:
    """Which of one topic's `offsets` to delete.

    `before`: the first offset young enough for `retention.age`; the caller has looked it up and leaves 0 when there
    is no age. `pages`: the same offsets in consecutive pieces, oldest first, each with the bytes it takes; within the
    piece in which the limit falls, messages count with its average. `pinned`: what some queue has not settled.
    `superseded`: what has a newer message of its key, asked only with `latest`.
    """
    cut = before if retention.age is not None else 0
    if retention.count is not None and len(offsets) > retention.count:
        cut = max(cut, offsets[len(offsets) - retention.count])
    if retention.bytes is not None:
        cut = max(cut, _cut_by_bytes(list(pages), retention.bytes))
    chosen = offsets[: offsets.rank(cut - 1)] if cut else BitMap64()
    if retention.latest:
        chosen |= offsets & superseded
    return chosen - pinned


def _cut_by_bytes(pages: list[tuple[BitMap64, int]], limit: int) -> int:
    """The first offset to keep, so that the newest messages within `limit` bytes stay."""
    left = limit
    for page, size in reversed(pages):
        if not page or size <= left:
            left -= size if page else 0
            continue
        keep = left * len(page) // size
        return int(page[len(page) - keep] if keep else page.max() + 1)
    return 0
