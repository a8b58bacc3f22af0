"""Group commit, without a timer: all units that wait become one transaction; what arrives meanwhile forms the next.

This is step 2 of the journey on the loop's side: form a batch, let the thread write it, answer everybody, dispatch.
Fairness: a transaction takes at most `max_transaction` bytes (or one larger unit), whose turn it is (`turns`). Floor 2.
"""

import asyncio
import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError, Code
from broker.engine.base import Receipt, Unit
from broker.engine.sqlite.blocked import Blocked
from broker.engine.sqlite.forming import Forming, Handle, answer, storable
from broker.engine.sqlite.transaction import Outcome, write
from broker.engine.sqlite.turns import Turns
from broker.observe.metrics import Histogram

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

logger = logging.getLogger(__name__)
BATCHES = (0, 1, 4, 16, 64, 256, 1_024, 4_096, 16_384)


class Writer:
    """See the module."""

    def __init__(self, engine: "SqliteEngine") -> None:
        self._engine = engine
        self._pending: list[Unit] = []
        self._turns = Turns()
        self.pending_bytes = 0
        self._wake = asyncio.Event()
        self._flush: asyncio.TimerHandle | None = None
        self._blocked = Blocked(engine.catalog.capped)
        self._stopping = False
        self._overdue = False  # settles have waited long enough for a commit to ride
        self.changed: set[Handle] = set()
        self.commits = 0
        self.messages = 0
        self.last_seconds = 0.0
        self.last_size = 0
        self.commit_seconds = Histogram()
        self.fsync_seconds = Histogram()  # of these, the statement that ends it: the last pages, and the fsync
        self.commit_messages = Histogram(BATCHES)

    @property
    def pending_units(self) -> int:
        """How many wait for the next commit."""
        return len(self._pending)

    @property
    def blocked_units(self) -> int:
        """How many wait for room in a queue."""
        return len(self._blocked)

    def submit(self, unit: Unit) -> None:
        """Queue a unit."""
        self._pending.append(unit)
        self.pending_bytes += unit.weight()
        self._wake.set()

    def mark(self, handle: Handle) -> None:
        """There is progress to persist: it rides the next commit, or starts one soon."""
        self.changed.add(handle)
        if self._flush is None and not self._pending:
            loop = asyncio.get_running_loop()
            self._flush = loop.call_later(self._engine.options.settle_delay, self._flush_now)

    def _flush_now(self) -> None:
        self._flush = None
        self._overdue = True
        self._wake.set()

    def stop(self) -> None:
        """Commit what waits, then end `run`."""
        self._stopping = self._overdue = True
        self._wake.set()

    def give_up(self) -> None:
        """The engine has failed: all that waits is refused, also when no commit is under way."""
        self._wake.set()

    def look(self) -> None:
        """If a unit has waited for room long enough, begin a commit that answers it."""
        if self._blocked and self._blocked.ready(self._now()):
            self._wake.set()

    def _now(self) -> float:
        """A time to compare with how long units may wait for room: when the engine stops, none may."""
        return inf if self._stopping else self._engine.monotonic()

    async def run(self) -> None:
        """The commit loop; it ends by `stop`, or by a failed write, after which nothing is confirmed any more."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._engine.failed:
                self._refuse([])
                return
            while self._pending or (self._overdue and self.changed) or self._blocked.ready(self._now()):
                units = self._take()
                if self._engine.failed:
                    self._refuse(units)
                    return
                try:
                    await self._commit(units)
                except Exception as error:
                    logger.critical("a commit failed; nothing more is confirmed", exc_info=error)
                    self._engine.fail(error)
                    self._refuse(units)
                    return
                self._engine.upkeep.after_commit(self.last_size)
            if self._stopping:
                return

    def _take(self) -> list[Unit]:
        limit = self._engine.options.max_transaction
        if self.pending_bytes <= limit:
            units, self._pending, self.pending_bytes = self._pending, [], 0
            self._turns.clear()
            return units
        units = self._turns.take(self._pending, limit)
        taken = set(map(id, units))
        self._pending = [unit for unit in self._pending if id(unit) not in taken]
        self.pending_bytes -= sum([unit.weight() for unit in units])
        return units

    async def _commit(self, units: list[Unit]) -> None:
        engine = self._engine
        conditional = [unit for unit in (*self._blocked, *units) if unit.sets and storable(unit)]
        revisions = await engine.revisions(conditional) if conditional else {}
        formed = Forming(engine, self.changed, revisions)
        freed = self._blocked.retry(self._now(), formed.add, engine.options.max_transaction)
        until = self._now() + engine.options.block_timeout
        for unit in units:
            behind = self._blocked.concerns(unit)
            room = None if behind else formed.add(unit, not self._stopping)
            if behind or room is not None:
                self._blocked.hold(unit, until, room)
        units += freed  # they are refused with the others if this fails
        self._overdue = self._stopping
        self.changed = set()  # only now: the settles of these units are part of this transaction
        batch = formed.finish()
        if not batch:
            outcome = Outcome()
        else:
            outcome = await engine.connection.run(partial(write, batch=batch, fsync_delay=engine.options.fsync_delay))
            self.commits += 1
            self.messages += len(batch.rows)
            self.last_seconds = outcome.seconds
            self.last_size = formed.size + 60 * len(batch.rows)
            self.commit_seconds.observe(outcome.seconds)
            self.fsync_seconds.observe(outcome.fsync_seconds)
            self.commit_messages.observe(len(batch.rows))
        formed.complete(outcome)

    def _refuse(self, units: list[Unit]) -> None:
        refusal = BrokerError(Code.STORAGE_FAILED, self._engine.failed)
        for unit in [*self._blocked, *units, *self._pending]:
            done, unit.done = unit.done, None
            if done is not None:
                answer(done, Receipt(error=refusal))
        self._pending, self.pending_bytes = [], 0
        self._blocked.clear()
