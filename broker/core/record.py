"""What a queue remembers of its messages beyond their offset, and hands to the next commit. Floor 0."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from pyroaring import BitMap64

MAX_HISTORY = 50


@dataclass(slots=True)
class Record:
    """What is known of a message that was delivered before. `due`: unix ms, 0 when not delayed."""

    attempts: int = 0
    deliveries: int = 0
    due: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Records:
    """The records of a queue's messages, and when those that are delayed are due again."""

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}
        self._due: list[tuple[int, int]] = []  # heap of (due, offset); those that were resumed are stale
        self._dirty: set[int] = set()

    def __contains__(self, offset: int) -> bool:
        return offset in self._records

    def __getitem__(self, offset: int) -> Record:
        """To be changed: the next commit persists it."""
        self._dirty.add(offset)
        return self._records.setdefault(offset, Record())

    @property
    def delayed(self) -> int:
        """How many wait for their retry."""
        return sum(1 for record in self._records.values() if record.due)

    @property
    def next_due(self) -> int | None:
        """No message is due before this (unix ms)."""
        return self._due[0][0] if self._due else None

    @property
    def changed(self) -> bool:
        """Is there something that a commit should persist?"""
        return bool(self._dirty)

    def restore(self, records: Mapping[int, Record]) -> list[int]:
        """At start: what was persisted; returns the offsets that are delayed."""
        self._records = dict(records)
        self._due = sorted((record.due, offset) for offset, record in records.items() if record.due)
        return [offset for _, offset in self._due]

    def attempts(self, offsets: Iterable[int]) -> dict[int, tuple[int, int]]:
        """(attempts, deliveries) of those that were delivered before."""
        records = self._records
        if not records:
            return {}
        return {o: (r.attempts, r.deliveries) for o in offsets if (r := records.get(o)) is not None}

    def history(self, offset: int) -> list[dict[str, Any]]:
        """What became of its deliveries, the latest last."""
        return self._records[offset].history if offset in self._records else []

    def remember(self, offset: int, outcome: str, error: str | None, wall: int) -> Record:
        """Add to its history."""
        record = self[offset]
        entry: dict[str, Any] = {"at": wall, "outcome": outcome}
        if error:
            # What cannot be UTF-8 (half of a surrogate pair) could not be stored, and would stop the writer for all.
            entry["error"] = error[:1_000].encode(errors="replace").decode()
        record.history = [*record.history[-MAX_HISTORY + 1 :], entry]
        return record

    def delay(self, offset: int, due: int) -> None:
        """It waits for its retry until then (unix ms)."""
        self[offset].due = due
        heappush(self._due, (due, offset))

    def resume(self, offset: int) -> None:
        """It waits for no retry any more."""
        record = self._records.get(offset)
        if record is not None and record.due:
            self[offset].due = 0

    def due(self, wall: int) -> list[int]:
        """Those whose time has come; they wait no more."""
        found: list[int] = []
        while self._due and self._due[0][0] <= wall:
            due, offset = heappop(self._due)
            record = self._records.get(offset)
            if record is not None and record.due == due:
                self.resume(offset)
                found.append(offset)
        return found

    def forget(self, offsets: Iterable[int]) -> None:
        """These are settled."""
        if not self._records:
            return
        for offset in offsets:
            if self._records.pop(offset, None) is not None:
                self._dirty.add(offset)

    def take_changes(self) -> dict[int, Record | None]:
        """What changed since the last call; None: gone."""
        changes = {offset: self._records.get(offset) for offset in self._dirty}
        self._dirty.clear()
        return changes


@dataclass(frozen=True, slots=True)
class Dead:
    """A message on its way to dead letters."""

    offset: int
    reason: str
    history: list[dict[str, Any]]


@dataclass(slots=True)
class Changes:
    """What the next commit must persist: the pages whose settled offsets changed, records changed (None: gone), and
    messages to move to dead letters."""

    pages: dict[int, BitMap64] = field(default_factory=dict)
    records: dict[int, Record | None] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    floor: int = 0


@dataclass(slots=True)
class Counters:
    """Since start."""

    acked: int = 0
    retried: int = 0
    dead: int = 0
    expired: int = 0
    dropped: int = 0
    leases_expired: int = 0
