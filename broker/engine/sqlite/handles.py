"""Steps 3 to 5 for queues: the machine of `core.queue` tied to the log it reads from and the consumers it feeds.

A handle resolves offsets to rows (from the tail in memory, else by one read for up to 2,000 of them), delivers, and
tells the writer that there is progress to persist. Floor 2.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError, Code
from broker.core.lease import Handout, Member, fitting, size_of
from broker.core.message import EXPIRES, Row, unpack_meta
from broker.core.queue import Queue
from broker.core.subscription import Consumer, Delivery, Outcome, Spec

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

logger = logging.getLogger(__name__)
_meta_of = itemgetter(3)
MAX_PICK = 2_000
FIRST_PICK = 64
PICK_BYTES = 8 << 20
"""A pick is as many messages as take about so much by the size of the last ones, so that large bodies are not read for
nothing."""


class QueueHandle:
    """One queue subscription of the running engine."""

    passing = False

    def __init__(self, engine: "SqliteEngine", number: int, queue: Queue) -> None:
        self.engine = engine
        self.number = number
        self.queue = queue
        self.loading = False
        self._piece = FIRST_PICK
        self._going_on = False
        self.persisted_pages: set[int] = set()
        self.persisted_floor = queue.scanned

    @property
    def spec(self) -> Spec:
        """The settings."""
        return self.queue.spec

    # Sink

    def publish(self, rows: Sequence[Row]) -> None:
        """Rows of a commit that match."""
        engine = self.engine
        handouts = self.queue.publish(rows, engine.monotonic(), hold=self.loading)
        if handouts:
            self._hand(handouts)
        if self.queue.changed:  # a cap dropped the oldest
            engine.changed(self)
        engine.alarms.touch(self)

    def pump(self) -> None:
        """Hand out what is ready to whom has credit."""
        if self.loading or not self.queue.ready or self.engine.failed:
            return
        handouts = self.queue.pick(self.engine.monotonic(), self._piece)
        if handouts:
            self._hand(handouts)
        if self.queue.unfinished:
            self.engine.alarms.touch(self)

    def serve(self) -> None:
        """The same after a commit: a queue that fails harms neither the others nor the writer."""
        try:
            self.pump()
        except Exception:
            logger.exception("a queue failed to hand out", extra={"subscription": self.spec.name})

    def _go_on(self) -> None:
        """A pick is one piece; if more is ready and wanted, the next follows after others had their turn."""
        if not self._going_on and self.queue.ready and self.queue.hungry:
            self._going_on = True
            asyncio.get_running_loop().call_soon(self._next_piece)

    def _next_piece(self) -> None:
        self._going_on = False
        self.pump()

    def _hand(self, handouts: list[Handout]) -> None:
        missing: list[Handout] = []
        delivered = False
        for handout in handouts:
            if handout.rows is not None:
                self._deliver(handout.member, handout.rows, handout.lease, handout.offsets)
                delivered = True
                continue
            rows = self.engine.log.tail.find(sorted(handout.offsets))
            if rows is None:
                missing.append(handout)
            else:
                delivered |= self._found(handout, rows, size_of(rows))
        if not missing:
            if delivered:
                self._go_on()
            return
        if self.loading:  # one read at a time, so that order holds; these are picked again after it
            for handout in missing:
                self.queue.unpick(handout.member, handout.offsets)
            return
        self.loading = True
        self.engine.spawn(self._load(missing))

    async def _load(self, handouts: list[Handout]) -> None:
        """Read and deliver, one pick ahead: while one is delivered, the thread reads the next."""
        left = deque(handouts)
        try:
            reading = self._read(left[0])
            while left:
                rows, count = await reading
                handout = left.popleft()
                if count < len(handout.offsets):  # too large together
                    self.queue.unpick(handout.member, handout.offsets[count:])
                    del handout.offsets[count:]
                rows = self._still_leased(handout, rows)
                size = size_of(rows)
                if not left:
                    left.extend(self._pick_ahead(size))
                if left:
                    reading = self._read(left[0])
                self._found(handout, rows, size)
        finally:
            self.loading = False
            for handout in left:  # the read failed: what was not delivered must not end as a failed attempt
                self.queue.unpick(handout.member, handout.offsets)
        self.pump()

    @staticmethod
    def _still_leased(handout: Handout, rows: list[Row]) -> list[Row]:
        """Some leases may have ended while their rows were read."""
        leased = handout.member.leased
        if all(map(leased.__contains__, handout.offsets)):
            return rows
        return [row for row in rows if row[0] in leased]

    def _read(self, handout: Handout) -> "asyncio.Task[tuple[list[Row], int]]":
        return asyncio.create_task(self.engine.fetch_within(handout.offsets, PICK_BYTES))

    def _pick_ahead(self, size: int) -> list[Handout]:
        """The next pick, if every consumer has room for this one of `size` bytes and another, so that nothing goes
        back."""
        if self.engine.failed or not self.queue.roomy(3 * size):
            return []
        return self.queue.pick(self.engine.monotonic(), self._piece)

    def _found(self, handout: Handout, rows: list[Row], size: int) -> bool:
        """The rows of a pick, of `size` bytes: drop what is gone or expired, keep to the bytes granted, deliver; False
        when nothing was left to deliver."""
        member, queue = handout.member, self.queue
        if len(rows) < len(handout.offsets):
            there = {row[0] for row in rows}
            queue.gone(member, [o for o in handout.offsets if o not in there])
            self.engine.changed(self)
        if handout.offsets != sorted(handout.offsets):
            place = {offset: i for i, offset in enumerate(handout.offsets)}
            rows.sort(key=lambda row: place[row[0]])
        if rows:
            self._piece = max(1, min(MAX_PICK, PICK_BYTES * len(rows) // (size + 1)))
        if member not in queue.members:
            return False
        live = self._unexpired(member, rows)
        part: Sequence[Row] = live
        if live is not rows or size > member.room:
            part, size = fitting(live, member.room, len(member.leased) <= len(live))
        if len(part) < len(live):
            queue.unpick(member, [row[0] for row in live[len(part) :]], len(live[len(part)][4]))
        queue.charge(member, size)
        if part:
            self._deliver(member, part, handout.lease, [row[0] for row in part])
        return bool(part)

    def _unexpired(self, member: Member, rows: list[Row]) -> list[Row]:
        if not any(map(_meta_of, rows)) or not any(row[3] is not None and row[3][0] & EXPIRES for row in rows):
            return rows
        wall = self.engine.wall_ms()
        ended = {row[0] for row in rows if unpack_meta(row[3]).get("expires_at", wall + 1) <= wall}
        if ended:
            self.queue.expired(member, sorted(ended))
            self.engine.changed(self)
        return [row for row in rows if row[0] not in ended]

    def _deliver(self, member: Member, rows: Sequence[Row], lease: int, offsets: list[int]) -> None:
        try:
            member.consumer.deliver(Delivery(rows, lease, self.queue.attempts(offsets)))
        except Exception:
            logger.exception("a consumer failed to take a delivery", extra={"subscription": self.spec.name})
            self.drop(member, BrokerError(Code.INTERNAL, "the consumer failed"))

    def drop(self, member: Member, error: BrokerError) -> None:
        """Let a consumer go and tell it why."""
        self.leave(member, lost=True)
        dismiss(member.consumer, error)

    def leave(self, member: Member, *, lost: bool) -> None:
        """A consumer goes; what it held is handed to others."""
        self.queue.leave(member, lost=lost, wall=self.engine.wall_ms())
        self.engine.changed(self)
        self.pump()

    def tick(self, now: float, wall: int, chance: float) -> None:
        """Time has passed."""
        deadline = self.queue.deadline(now, wall)
        if deadline is None or deadline > now:
            return
        self.queue.tick(now, wall, chance)
        if self.queue.changed:
            self.engine.changed(self)
        self.pump()


def dismiss(consumer: Consumer, error: BrokerError) -> None:
    """Tell a consumer that it was let go, and why; when it fails at that, the others are told all the same."""
    try:
        consumer.detached(error)
    except Exception:
        logger.exception("a consumer failed to be let go")


class QueueAttachment:
    """A consumer's end of its tie to a queue."""

    recovered = True

    def __init__(self, handle: QueueHandle, consumer: Consumer) -> None:
        self._handle = handle
        self._member = handle.queue.join(consumer)
        self.position = handle.queue.floor
        self.skipped = 0

    def grant(self, messages: int, size: int) -> None:
        """Add credit."""
        self._handle.queue.grant(self._member, messages, size)
        self._handle.pump()

    def settle(
        self, outcome: Outcome, offsets: Sequence[int], delay: int | None = None, error: str | None = None
    ) -> Sequence[int]:
        """Settle; the next commit carries it."""
        handle = self._handle
        queue, engine = handle.queue, handle.engine
        if outcome is Outcome.ACK:
            lost = queue.ack(self._member, offsets)
        else:
            lost = queue.settle(
                self._member,
                outcome,
                offsets,
                wall=engine.wall_ms(),
                chance=engine.chance(),
                delay=delay,
                error=error,
            )
        engine.changed(handle)
        if queue.ready:
            handle.pump()
        return lost

    def extend(self, offsets: Sequence[int], duration: int) -> Sequence[int]:
        """Prolong leases, or end them sooner."""
        engine = self._handle.engine
        engine.alarms.touch(self._handle)
        return self._handle.queue.extend(self._member, offsets, duration, engine.monotonic())

    def started(self, offsets: Sequence[int]) -> None:
        """The worker began on these."""
        self._handle.queue.started(self._member, offsets)

    def held(self, offset: int) -> int | None:
        """The number of the lease, 0 for none."""
        lease = self._member.leased.get(offset)
        return lease.number if lease is not None else 0

    def refilter(self, filters: Sequence[str]) -> None:
        """A queue's topics are its settings."""
        raise BrokerError(Code.UNSUPPORTED, "a queue's topics are its settings")

    def detach(self, *, lost: bool = False) -> None:
        """Go away."""
        self._handle.leave(self._member, lost=lost)
