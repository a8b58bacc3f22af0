"""Retained messages: the last one of each topic that a publisher asked to keep for who comes later (§3.3.1.3).

They are committed with the publish that brings them and held in memory, as a tree of levels, so that an exact filter
costs one look-up and a wildcard what it matches. A pure floor.
"""

from collections.abc import Iterator

from broker.core.errors import BrokerError, Code
from broker.core.message import EXPIRES, Row, unpack_meta

WEIGHT = 200
"""Bytes that a message weighs beside topic, meta and body."""


class _Level:
    __slots__ = ("below", "row")

    def __init__(self) -> None:
        self.below: dict[str, _Level] = {}
        self.row: Row | None = None


class Retained:
    """At most `messages` of `size` bytes together."""

    def __init__(self, messages: int, size: int) -> None:
        self._most = messages
        self._room = size
        self._rows: dict[str, Row] = {}
        self._revisions: dict[str, int] = {}
        self._root = _Level()
        self.size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def check(self, topic: str, meta: bytes | None, body: bytes) -> None:
        """Is there room for it? Raises RATE_LIMITED."""
        before = self._rows.get(topic)
        if not body:
            return
        if before is None and len(self._rows) >= self._most:
            raise BrokerError(Code.RATE_LIMITED, f"{self._most} messages are retained; raise mqtt.retained_messages")
        size = self.size + _weight((0, topic, 0, meta, body)) - (0 if before is None else _weight(before))
        if size > self._room:
            raise BrokerError(
                Code.RATE_LIMITED, f"retained messages would take {size} bytes; raise mqtt.retained_bytes"
            )

    def put(self, row: Row, revision: int = 0) -> None:
        """It is on disk, as this revision of its key; one without a body deletes. [MQTT-3.3.1-5, 3.3.1-6, 3.3.1-7]"""
        topic = row[1]
        before = self._rows.pop(topic, None)
        if before is not None:
            self.size -= _weight(before)
            del self._revisions[topic]
        if not row[4]:
            if before is not None:
                self._prune(topic)
            return
        self._rows[topic] = row
        self._revisions[topic] = revision
        self.size += _weight(row)
        level = self._root
        for name in topic.split("/"):
            level = level.below.setdefault(name, _Level())
        level.row = row

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
        if "+" not in text and "#" not in text:
            row = self._rows.get(text)
            found = [] if row is None else [row]
        else:
            found = list(_walk(self._root, text.split("/")))
        return [row for row in found if not _expired(row, now)]

    def expired(self, now: int) -> list[tuple[str, int]]:
        """(topic, revision) of those that have."""
        return [(topic, self._revisions[topic]) for topic, row in self._rows.items() if _expired(row, now)]

    def topics(self) -> list[str]:
        """All, sorted."""
        return sorted(self._rows)


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
