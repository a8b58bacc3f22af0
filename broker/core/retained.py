"""Retained messages: the last one of each topic that a publisher asked to keep for who comes later (MQTT 5 §3.3.1.3).

They are committed with the publish that brings them and held in memory, as a tree of levels, so that an exact filter
costs one look-up and a wildcard what it matches. Floor 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from broker.core.errors import BrokerError, Code
from broker.core.message import EXPIRES, Row, unpack_meta

WEIGHT = 200
"""Bytes that a message weighs beside topic, meta and body."""


class _Level:
    __slots__ = ("below", "row")

    def __init__(self) -> None:
        self.below: dict[str, _Level] = {}
        self.row: Row | None = None


@dataclass(slots=True)
class Used:
    """What somebody, or everybody, has."""

    messages: int = 0
    size: int = 0


class Kept(NamedTuple):
    """A retained message, the revision of its key, and whose it is: the principal's that published it."""

    row: Row
    revision: int
    owner: str


class FullError(BrokerError):
    """There is no room for another one, as `limit` of `[limits]` says, for `who`, or "" for everybody."""

    def __init__(self, limit: str, who: str, detail: str) -> None:
        super().__init__(Code.QUOTA_EXCEEDED, f"{detail}; raise limits.{limit}")
        self.limit = limit
        self.who = who


class Retained:
    """At most `messages` of `size` bytes together, and of one owner at most `own_messages` of `own_size` bytes."""

    def __init__(self, messages: int, size: int, own_messages: int | None = None, own_size: int | None = None) -> None:
        self._most = (messages, size)
        self._own_most = (messages if own_messages is None else own_messages, size if own_size is None else own_size)
        self._kept: dict[str, Kept] = {}
        self._used = Used()
        self._used_by: dict[str, Used] = {}
        self._root = _Level()

    @property
    def size(self) -> int:
        """Bytes that all of them take."""
        return self._used.size

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, topic: str) -> Kept:
        """The one of this topic. Raises KeyError."""
        return self._kept[topic]

    def check(self, topic: str, meta: bytes | None, body: bytes, owner: str = "") -> None:
        """Is there room for it? What waits for the disk is not counted yet. Raises FullError."""
        if not body:
            return
        weight = _weight((0, topic, 0, meta, body))
        before = self._kept.get(topic)
        _check(weight, before, self._used, self._most, "", "")
        own = before if before is not None and before.owner == owner else None
        _check(weight, own, self._used_by.get(owner) or Used(), self._own_most, owner, "_per_principal")

    def put(self, row: Row, revision: int = 0, owner: str = "") -> None:
        """It is on disk, as this revision of its key; one without a body deletes. [MQTT-3.3.1-5, 3.3.1-6, 3.3.1-7]"""
        topic = row[1]
        before = self._kept.pop(topic, None)
        if before is not None:
            self._count(before, -1)
        if not row[4]:
            if before is not None:
                self._prune(topic)
            return
        kept = self._kept[topic] = Kept(row, revision, owner)
        self._count(kept, 1)
        level = self._root
        for name in topic.split("/"):
            level = level.below.setdefault(name, _Level())
        level.row = row

    def _count(self, kept: Kept, times: int) -> None:
        own = self._used_by.get(kept.owner)
        if own is None:
            own = self._used_by[kept.owner] = Used()
        weight = times * _weight(kept.row)
        for used in (self._used, own):
            used.messages += times
            used.size += weight
        if not own.messages:
            del self._used_by[kept.owner]

    def _prune(self, topic: str) -> None:
        path: list[tuple[_Level, str]] = []
        level = self._root
        for name in topic.split("/"):
            path.append((level, name))
            level = level.below[name]
        level.row = None
        for above, name in reversed(path):
            below = above.below[name]
            if below.below or below.row is not None:
                return
            del above.below[name]

    def matching(self, text: str, now: int) -> list[Row]:
        """Those that a filter matches and that have not expired (`now` in unix ms)."""
        return [row for row in self._found(text) if not _expired(row, now)]

    def _found(self, text: str) -> Iterator[Row]:
        if "+" in text or "#" in text:
            yield from _walk(self._root, text.split("/"))
        elif text in self._kept:
            yield self._kept[text].row

    def matched(self, text: str) -> Iterator[str]:
        """The topics of those that a filter matches, expired or not, one by one. Not over a change."""
        if text == "#":
            return (topic for topic in self._kept if topic[0] != "$")
        return (row[1] for row in self._found(text))

    def expired(self, now: int) -> list[tuple[str, int]]:
        """(topic, revision) of those that have."""
        return [(topic, kept.revision) for topic, kept in self._kept.items() if _expired(kept.row, now)]


def _check(weight: int, before: Kept | None, used: Used, most: tuple[int, int], who: str, which: str) -> None:
    """Within these bounds, for one of this weight in the place of another? Raises FullError."""
    messages, size = most
    whose = f" of {who}" if who else ""
    if before is None and used.messages >= messages:
        raise FullError(f"retained_messages{which}", who, f"{messages} messages{whose} are retained")
    wanted = used.size + weight - (0 if before is None else _weight(before.row))
    if wanted > size:
        raise FullError(f"retained_bytes{which}", who, f"retained messages{whose} would take {wanted} bytes")


def _walk(root: _Level, wanted: list[str]) -> Iterator[Row]:
    levels = [root]
    for i, name in enumerate(wanted):
        if name == "#":
            for level in levels:
                yield from _all(level, dollar=i > 0)
            return
        if name == "+":
            levels = [b for at in levels for n, b in at.below.items() if i > 0 or not n.startswith("$")]
        else:
            levels = [at.below[name] for at in levels if name in at.below]
    for level in levels:
        if level.row is not None:
            yield level.row


def _all(level: _Level, *, dollar: bool) -> Iterator[Row]:
    """The level and everything below. [MQTT-4.7.2-1]"""
    if level.row is not None:
        yield level.row
    for name, below in level.below.items():
        if dollar or not name.startswith("$"):
            yield from _all(below, dollar=True)


def _expired(row: Row, now: int) -> bool:
    meta = row[3]
    return meta is not None and bool(meta[0] & EXPIRES) and unpack_meta(meta).get("expires_at", now + 1) <= now


def _weight(row: Row) -> int:
    return WEIGHT + len(row[1]) + len(row[3] or b"") + len(row[4])
