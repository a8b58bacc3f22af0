"""One transaction being formed from the units that wait, and completed once it is on disk: step 2 of the journey.

`Writer` decides what goes in and when; here each unit is checked, numbered and answered. Floor 2.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING

import msgpack
from pyroaring import BitMap

from broker.core.errors import BrokerError, Code
from broker.core.message import NAMED, Draft, Row
from broker.core.offsets import PAGE_BITS, PAGE_SIZE
from broker.core.record import Changes
from broker.core.subscription import Overflow
from broker.engine.base import Receipt, Refused, Sequences, Unit
from broker.engine.sqlite.blocked import Room
from broker.engine.sqlite.handles import QueueHandle
from broker.engine.sqlite.log import Directory
from broker.engine.sqlite.streams import StreamHandle
from broker.engine.sqlite.transaction import Batch, DeadLetter, Outcome

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

logger = logging.getLogger(__name__)
_topic_of, _meta_of = itemgetter(0), itemgetter(1)
MAX_REFUSED = 1_000
Handle = QueueHandle | StreamHandle
Tally = dict[QueueHandle, list[int]]
"""What a batch brings to capped queues so far: [messages, bytes]."""


@dataclass(slots=True, eq=False)
class InternalUnit(Unit):
    """A unit of the engine's own: its messages' ids are known already; it may delete and touch settings too. `prepare`
    is called when its transaction is formed, while none is under way, and may add to it."""

    unscheduled: list[tuple[str, str]] = field(default_factory=list)
    entered: list[tuple[str, str, int]] = field(default_factory=list)  # id, topic, index of a due message
    removed: list[int] = field(default_factory=list)
    statements: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    prepare: Callable[[], None] | None = None


class Forming:
    """One transaction being formed, and completed once it is on disk."""

    def __init__(self, engine: "SqliteEngine", changed: set[Handle], revisions: dict[str, int]) -> None:
        self.engine = engine
        self.changed = changed
        self.revisions = revisions
        self.batch = Batch(at=engine.log.clamp(engine.wall_ms()))
        self.answers: list[tuple[Unit, Receipt, int]] = []  # unit, receipt, index of its first row
        self.drafts: list[Draft] = []
        self.size = 0
        self.tally: Tally = {}
        self.publishers: dict[str, tuple[int, list[Refused]]] = {}
        self.sets: dict[str, tuple[bytes | None, int]] = {}
        self.rows: list[Row] = []
        self.first = 0  # offset of the first message
        self.unlogged: set[int] = set()  # indexes of those of durability `memory`: they have no place in the log
        self.sealing: list[Directory] = []

    def add(self, unit: Unit, patient: bool) -> Room | None:
        """Take a unit into the batch, or answer it with what forbids it. If it is `patient` and a queue has no room
        for it, of those that block, nothing is done: then this is the room it needs."""
        receipt, index = Receipt(at=self.batch.at), len(self.drafts)
        if not storable(unit):
            receipt.error = BrokerError(Code.BAD_REQUEST, "keys and ids must be UTF-8 text, numbers must fit 64 bits")
            self.answers.append((unit, receipt, index))
            return None
        try:
            receipt.error = self._refusal(unit)
            if receipt.error is None and (room := self._lacking(unit)) is not None:
                if patient and room.handle.spec.overflow is Overflow.BLOCK:
                    return room
                held = len(room.handle.queue.outstanding)
                receipt.error = BrokerError(Code.QUEUE_FULL, f"{room.handle.spec.name} holds {held}")
            if receipt.error is None:
                self._take(unit, receipt)
        except Exception:  # an error in the program, which must not fail what others handed in
            logger.exception("a unit could not be taken")
            receipt.error = BrokerError(Code.INTERNAL, "nothing of it is published; whether it settled is unknown")
        if unit.publisher is not None:
            self._answered(unit.publisher, receipt.error)
        self.answers.append((unit, receipt, index))
        return None

    def _take(self, unit: Unit, receipt: Receipt) -> None:
        """Into the batch. Its messages come last, so that none is there when something before them fails."""
        if unit.settles:
            receipt.lost = [(s.subscription, s.offset) for s in unit.settles if not self.engine.catalog.settle(s)]
        if unit.sets:
            self._set(unit, receipt)
        for scheduled in unit.schedules:
            topic, meta, body = scheduled.draft
            named = meta is not None and meta[0] & NAMED
            number = self.engine.log.numbers[topic] if named else 0
            self.batch.scheduled.append((scheduled.id, topic, scheduled.due, meta, body, number))
        if isinstance(unit, InternalUnit):
            if unit.prepare is not None:
                unit.prepare()
            self.batch.unscheduled += unit.unscheduled
            self.batch.removed += unit.removed
            self.batch.statements += unit.statements
        self.drafts += unit.publishes
        self.size += unit.size

    def _answered(self, sequences: Sequences, error: BrokerError | None) -> None:
        """The publisher's sequences are answered with this batch; which were refused must outlive a lost answer."""
        id_ = sequences.id
        _, refused = self.publishers.get(id_) or self.engine.publisher(id_)
        refused = [*refused, *sequences.refused]
        if error is not None and sequences.last >= sequences.first:
            refused.append((sequences.first, sequences.last - sequences.first + 1, error.code.value))
        self.publishers[id_] = (sequences.last, refused[-MAX_REFUSED:])

    def _refusal(self, unit: Unit) -> BrokerError | None:
        for item in unit.sets:
            if item.expect is not None and self.revisions.get(item.key, 0) != item.expect:
                return BrokerError(
                    Code.CONDITION_FAILED,
                    f"key {item.key!r} has revision {self.revisions.get(item.key, 0)}, not {item.expect}",
                )
        if unit.settles and (unit.publishes or unit.sets or unit.schedules):
            for settle in unit.settles:
                if not self.engine.catalog.holds(settle):
                    return BrokerError(Code.LEASE_LOST, f"offset {settle.offset} of {settle.subscription}")
        return None

    def _lacking(self, unit: Unit) -> Room | None:
        if unit.publishes and self.engine.catalog.capped and not isinstance(unit, InternalUnit):
            return self.engine.catalog.lacking(unit.publishes, self.tally)
        return None

    def _set(self, unit: Unit, receipt: Receipt) -> None:
        engine, revisions = self.engine, []
        for item in unit.sets:
            revision = engine.next_revision
            engine.next_revision += 1
            revisions.append(revision)
            self.revisions[item.key] = revision if item.value is not None else 0
            self.sets[item.key] = (item.value, revision)
        receipt.revisions = revisions
        self.batch.next_revision = engine.next_revision

    def finish(self) -> Batch:
        """Number the messages, gather progress: what the thread will write."""
        log, batch = self.engine.log, self.batch
        first = log.next_offset
        if self.drafts:
            self._number(first)
        for handle in self.changed:
            self._progress(handle)
        if log.next_offset != first:
            batch.next_offset = log.next_offset
            self.sealing = log.full_pages()
            batch.pages = [(d.page, d.first_at, d.last_at, int(d.special), d.packed()) for d in self.sealing]
        batch.publishers = [
            (id_, sequence, batch.at, msgpack.packb(refused) if refused else None)
            for id_, (sequence, refused) in self.publishers.items()
        ]
        batch.sets = [(key, value, revision) for key, (value, revision) in self.sets.items() if value is not None]
        batch.unset = [(key,) for key, (value, _) in self.sets.items() if value is None]
        batch.new_topics, log.numbers.fresh = log.numbers.fresh, []
        return batch

    def _number(self, first: int) -> None:
        log, batch, drafts = self.engine.log, self.batch, self.drafts
        at = batch.at
        self.first = first
        topics = list(map(log.numbers.__getitem__, map(_topic_of, drafts)))
        if 0 in topics:
            self.unlogged = {i for i, number in enumerate(topics) if not number}
            if not any(topics):  # nothing to store
                self.rows = [(0, t, at, m, b) for t, m, b in drafts]
                return
        log.next_offset = first + len(drafts)
        self.rows = [(o, t, at, m, b) for o, (t, m, b) in enumerate(drafts, first)]
        batch.rows, batch.topics = self.rows, topics
        if self.unlogged:
            batch.rows = [row for row, number in zip(self.rows, topics, strict=True) if number]
            batch.topics = [number for number in topics if number]
            for i in self.unlogged:
                self.rows[i] = (0, *self.rows[i][1:])
        if any(map(_meta_of, drafts)):
            self._entered(first)
            internal = self._internal()
            batch.named = [
                i
                for i, row in enumerate(batch.rows)
                if row[3] is not None and row[3][0] & NAMED and row[0] - first not in internal
            ]

    def _entered(self, first: int) -> None:
        """Due messages have their offset now: their ids shall point to it."""
        numbers = self.engine.log.numbers
        for unit, _, index in self.answers:
            if isinstance(unit, InternalUnit):
                for id_, topic, i in unit.entered:
                    values = (first + index + i, id_, numbers[topic])
                    for table in ("dedup_young", "dedup_old"):
                        sql = f"UPDATE {table} SET offset = ? WHERE id = ? AND topic = ?"  # noqa: S608
                        self.batch.statements.append((sql, values))

    def _internal(self) -> set[int]:
        """Indexes of rows whose ids were entered before: due messages of the schedule."""
        found: set[int] = set()
        for unit, _, index in self.answers:
            if isinstance(unit, InternalUnit):
                found.update(range(index, index + len(unit.publishes)))
        return found

    def _progress(self, handle: Handle) -> None:
        if self.engine.catalog.handles.get(handle.spec.name) is not handle:
            return  # deleted; a consumer that leaves later must not bring its progress back
        if isinstance(handle, StreamHandle):
            if handle.floor != handle.persisted_floor:
                self._floor(handle, handle.floor)
            return
        changes = handle.queue.take_changes()
        if changes.floor != handle.persisted_floor:
            self._floor(handle, changes.floor)
        self._pages(handle, changes)
        for offset, record in changes.records.items():
            if record is None:
                self.batch.forgotten.append((handle.number, offset))
            else:
                packed = msgpack.packb((record.attempts, record.deliveries, record.due, record.history))
                self.batch.records.append((handle.number, offset, packed))
        for dead in changes.dead:
            topic = f"$dead/{handle.spec.name}"
            number = self.engine.log.numbers[topic]
            source = {"subscription": handle.spec.name, "reason": dead.reason}
            offset = self.engine.log.next_offset
            self.engine.log.next_offset += 1
            self.batch.dead.append(DeadLetter(dead.offset, offset, number, dead.history, source))

    def _floor(self, handle: Handle, floor: int) -> None:
        self.batch.floors.append((handle.number, floor))
        handle.persisted_floor = floor

    def _pages(self, handle: QueueHandle, changes: Changes) -> None:
        kept = handle.persisted_pages
        for page, offsets in changes.pages.items():
            if offsets:
                base = page * PAGE_SIZE
                low = BitMap(offsets.shift(-base))
                low.run_optimize()
                self.batch.settled.append((handle.number, page, low.serialize()))
                kept.add(page)
            elif page in kept:
                self.batch.unsettled_pages.append((handle.number, page))
                kept.discard(page)
        below = (changes.floor + 1) >> PAGE_BITS
        if kept and min(kept) < below:
            self.batch.settled_below.append((handle.number, below))
            handle.persisted_pages = {page for page in kept if page >= below}

    def complete(self, outcome: Outcome) -> None:
        """It is on disk: answer everybody, then enter and dispatch the messages."""
        log, batch, rows = self.engine.log, self.batch, self.rows
        duplicates = outcome.duplicates
        if duplicates and batch.rows is not rows:
            duplicates = {batch.rows[i][0] - self.first: offset for i, offset in duplicates.items()}
        for directory in self.sealing:
            log.sealed(directory)
        stored, numbers = batch.rows, batch.topics
        if outcome.duplicates:
            kept = [i for i in range(len(stored)) if i not in outcome.duplicates]
            stored, numbers = [stored[i] for i in kept], [numbers[i] for i in kept]
            rows = [row for i, row in enumerate(rows) if i not in duplicates]
        if outcome.dead:
            names = log.numbers.names
            dead = [(row[0], names[number], *row[2:]) for row, number in outcome.dead]
            stored, numbers = [*stored, *dead], [*numbers, *(number for _, number in outcome.dead)]
            rows = [*rows, *dead]
            self.size += sum(len(row[4]) for row in dead)
        if stored:
            log.committed(stored, numbers, self.size)
        log.end = log.next_offset - 1
        self.engine.publishers.update(self.publishers)
        self._answer(duplicates)
        if rows and not self.engine.failed:
            self.engine.dispatch(stored, rows)
        for handle in self.changed:  # settles of units and dead letters may have made others ready
            if isinstance(handle, QueueHandle):
                handle.serve()

    def _answer(self, duplicates: dict[int, int]) -> None:
        for unit, receipt, index in self.answers:
            if receipt.error is None:
                for scheduled in unit.schedules:
                    self.engine.upkeep.planned(scheduled.due)
            done, unit.done = unit.done, None  # once, whatever fails after it
            if done is None:
                continue
            receipt.offset = self.first + index
            if receipt.error is None:
                mine = range(index, index + len(unit.publishes))
                if duplicates:
                    receipt.duplicates = {i - index: duplicates[i] for i in mine if i in duplicates}
                if self.unlogged:
                    receipt.unlogged = frozenset([i - index for i in mine if i in self.unlogged])
            answer(done, receipt)


def answer(done: Callable[[Receipt], None], receipt: Receipt) -> None:
    """Tell one; when it fails at that, the others are told all the same."""
    try:
        done(receipt)
    except Exception:
        logger.exception("somebody failed to take an answer")


def storable(unit: Unit) -> bool:
    """Could SQLite take it? Doors ask for more than this; what slips through one must not fail a whole transaction."""
    if not (unit.sets or unit.schedules or unit.publisher):
        return True
    texts = [item.key for item in unit.sets] + [scheduled.id for scheduled in unit.schedules]
    numbers = [scheduled.due for scheduled in unit.schedules]
    if unit.publisher is not None:
        texts.append(unit.publisher.id)
        numbers.append(unit.publisher.last)
    try:
        "".join(texts).encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return all(type(number) is int and abs(number) < 1 << 63 for number in numbers)
