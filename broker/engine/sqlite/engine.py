"""The embedded engine: wires log, writer, routes, queues and streams over one SQLite file, and keeps the promises of
`broker.engine.base`. What each part decides stands in its own module. Floor 2.
"""

import asyncio
import json
import random
import shutil
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from broker.core.errors import BrokerError, Code
from broker.core.message import Draft, Row, unpack_meta
from broker.core.offsets import PAGE_BITS
from broker.core.position import Start
from broker.core.queue import Queue
from broker.core.retention import Durability, Policies
from broker.core.spec import spec_values
from broker.core.subscription import Consumer, Kind, Outcome, Overflow, Spec
from broker.core.topic import intersection, matches
from broker.engine.base import (
    Attachment,
    Capabilities,
    Page,
    Receipt,
    Scheduled,
    Settle,
    Stats,
    SubscriptionInfo,
    TopicInfo,
    Unit,
)
from broker.engine.sqlite.connection import Connection, open_reader, open_writer
from broker.engine.sqlite.handles import QueueAttachment, QueueHandle
from broker.engine.sqlite.log import Directory, Log, SealedDirectory, Tail
from broker.engine.sqlite.pruning import by_page
from broker.engine.sqlite.options import SqliteOptions
from broker.engine.sqlite.replay import Replay
from broker.engine.sqlite.recovery import recover
from broker.engine.sqlite.routes import Routes
from broker.engine.sqlite.streams import ReaderAttachment, StreamHandle, TapAttachment
from broker.engine.sqlite.upkeep import Upkeep
from broker.engine.sqlite.writer import Handle, InternalUnit, Writer


class Matcher(dict[str, bool]):
    """Does a set of filters match a topic? Remembered per topic."""

    def __init__(self, filters: Sequence[str]) -> None:
        super().__init__()
        self._filters = filters

    def __missing__(self, topic: str) -> bool:
        found = self[topic] = any(matches(f, topic) for f in self._filters)
        return found


class SqliteEngine:
    """See `broker.engine.base.Engine` for every public method.

    `wall` gives unix seconds (schedules, expiry, `published_at`), `monotonic` seconds (leases); `chance` a random
    number in [0, 1) (jitter). `tick()` does all time-driven work that is due; `start` runs it on a timer unless
    `ticking` is False, as in tests.
    """

    capabilities = Capabilities()

    def __init__(
        self,
        folder: Path,
        options: SqliteOptions | None = None,
        policies: Policies | None = None,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        ticking: bool = True,
    ) -> None:
        self.folder = folder
        self.path = folder / "postroom.db"
        self.options = options or SqliteOptions()
        self.policies = policies or Policies()
        self.wall = wall
        self.monotonic = monotonic
        self.chance = chance
        self.ticking = ticking
        self.log = Log(Tail(self.options.cache))
        self.log.numbers.is_memory = lambda name: self.policies.of(name).durability is Durability.MEMORY
        self.routes = Routes()
        self.taps = Routes()
        self.handles: dict[str, Handle] = {}
        self.attachments: set[ReaderAttachment] = set()
        self.capped: list[QueueHandle] = []
        self.publishers: dict[str, int] = {}
        self.next_revision = 1
        self.next_subscription = 1
        self.failed = ""
        self.disk_low = ""
        self.stopping = False
        self._matchers: dict[tuple[str, ...], Matcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timed: set[QueueHandle] = set()

    @property
    def epoch(self) -> str:
        """Of the log."""
        return self.log.epoch

    def wall_ms(self) -> int:
        """Unix milliseconds."""
        return int(self.wall() * 1000)

    # Life

    async def start(self) -> None:
        """Open, recover, begin to commit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.connection: Connection = await open_writer(self.path, self.options.page_cache)
        self.reader: Connection = await open_reader(self.path)
        self.replay = Replay(self)
        self.writer = Writer(self)
        self.upkeep = Upkeep(self)
        try:
            await recover(self)
        except BaseException:
            await self._close()
            raise
        self._main = asyncio.create_task(self.writer.run(), name="commit loop")
        self.upkeep.start()

    async def stop(self) -> None:
        """Commit what waits, let consumers go, close."""
        if self.stopping:
            return
        self.stopping = True
        self.upkeep.stop()
        goodbye = BrokerError(Code.SHUTTING_DOWN)
        for handle in self.handles.values():
            if isinstance(handle, QueueHandle):
                for member in list(handle.queue.members):
                    member.consumer.detached(goodbye)
                    handle.queue.leave(member, lost=False, wall=self.wall_ms())
        for attachment in list(self.attachments):
            attachment.reader.consumer.detached(goodbye)
            attachment.detach()
        self.writer.changed.update(self.handles.values())
        self.writer.stop()
        await self._main
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        if not self.failed:
            await self.connection.run(_close_cleanly)
        await self._close()

    async def _close(self) -> None:
        await self.reader.close()
        await self.connection.close()

    def fail(self, error: Exception) -> None:
        """A write failed: nothing more is confirmed or handed out."""
        self.failed = str(error) or repr(error)
        refusal = BrokerError(Code.STORAGE_FAILED, self.failed)
        for handle in self.handles.values():
            if isinstance(handle, QueueHandle):
                for member in list(handle.queue.members):
                    member.consumer.detached(refusal)
        for attachment in list(self.attachments):
            attachment.reader.consumer.detached(refusal)
            attachment.detach()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a read of the log beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def soon(self, call: Callable[[], None]) -> None:
        """Call in the loop's next step."""
        asyncio.get_running_loop().call_soon(call)

    async def tick(self) -> None:
        """Do all time-driven work that is due."""
        await self.upkeep.tick()

    # Step 1 and 2

    def commit(self, unit: Unit) -> None:
        """Take a unit."""
        if self.failed:
            raise BrokerError(Code.STORAGE_FAILED, self.failed)
        if self.stopping:
            raise BrokerError(Code.SHUTTING_DOWN)
        if self.disk_low and (unit.publishes or unit.schedules or unit.sets):
            raise BrokerError(Code.DISK_LOW, self.disk_low)
        if unit.publisher is not None:
            self.publishers[unit.publisher[0]] = unit.publisher[1]
        self.writer.submit(unit)

    def publisher(self, publisher: str) -> int:
        """The highest sequence taken from this publisher."""
        return self.publishers.get(publisher, 0)

    async def committed_unit(self, unit: Unit) -> Receipt:
        """Commit a unit of the engine's own and wait for it. Raises its error."""
        if self.failed:
            raise BrokerError(Code.STORAGE_FAILED, self.failed)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        unit.done = lambda receipt: None if future.done() else future.set_result(receipt)
        self.writer.submit(unit)
        receipt = await future
        if receipt.error is not None:
            raise receipt.error
        return receipt

    async def revisions(self, units: Sequence[Unit]) -> dict[str, int]:
        """The revisions of the keys that these units set under a condition."""
        keys = {item.key for unit in units for item in unit.sets if item.expect is not None}
        if not keys:
            return {}

        def work(db: sqlite3.Connection) -> dict[str, int]:
            found: dict[str, int] = {}
            for key in keys:
                row = db.execute("SELECT revision FROM kv WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = row[0]
            return found

        return await self.connection.run(work)

    def full(self, drafts: Sequence[Draft], before: Sequence[Draft]) -> BrokerError | None:
        """The refusal of a capped queue that has no room for these, after those of the batch before them."""
        for handle in self.capped:
            wanted = self.matcher(handle.spec.topics)
            mine = [d for d in drafts if wanted[d[0]]]
            if not mine:
                continue
            earlier = [d for d in before if wanted[d[0]]]
            size = sum(len(d[2]) for d in mine) + sum(len(d[2]) for d in earlier)
            if handle.queue.full(len(mine) + len(earlier), size):
                return BrokerError(Code.QUEUE_FULL, f"{handle.spec.name} holds {len(handle.queue.outstanding)}")
        return None

    def holds(self, settle: Settle) -> bool:
        """Could this settle be applied now?"""
        handle = self.handles.get(settle.subscription)
        if isinstance(handle, StreamHandle):
            return settle.outcome is Outcome.ACK
        return handle is not None and handle.queue.holds(settle.offset, settle.lease)

    def settle(self, settle: Settle) -> bool:
        """Apply a unit's settle; False when it came too late."""
        handle = self.handles.get(settle.subscription)
        if handle is None:
            return False
        if isinstance(handle, StreamHandle):
            if settle.outcome is not Outcome.ACK:
                return False
            handle.advance(settle.offset, self.log.end)
            self.writer.changed.add(handle)
            return True
        lost = handle.queue.settle(
            None,
            settle.outcome,
            [settle.offset],
            wall=self.wall_ms(),
            chance=self.chance(),
            delay=settle.delay,
            error=settle.error,
            lease=settle.lease,
        )
        self.writer.changed.add(handle)
        self.timed(handle)
        return not lost

    def changed(self, handle: Handle) -> None:
        """There is progress of this subscription to persist."""
        self.writer.mark(handle)
        if isinstance(handle, QueueHandle):
            self._timed.add(handle)

    def timed(self, handle: QueueHandle) -> None:
        """Its deadlines may have changed."""
        self._timed.add(handle)

    def timed_queues(self) -> list[QueueHandle]:
        """Queues that may have something to do by time."""
        now, wall = self.monotonic(), self.wall_ms()
        self._timed = {h for h in self._timed if h.queue.deadline(now, wall) is not None}
        return list(self._timed)

    def queues(self) -> list[Queue]:
        """All queue machines."""
        return [h.queue for h in self.handles.values() if isinstance(h, QueueHandle)]

    async def remove(self, offsets: list[int], topic: str, unit: InternalUnit) -> None:
        """Delete messages of one topic from the log, together with what else `unit` does."""
        log = self.log
        number = log.numbers[topic]
        marks = ",".join("?" * len(offsets))
        unit.statements.append((f"DELETE FROM message WHERE offset IN ({marks})", tuple(offsets)))  # noqa: S608
        unit.statements.append(
            ("UPDATE topic SET pruned_to = max(pruned_to, ?) WHERE id = ?", (offsets[-1], number))
        )
        for page, gone in by_page(offsets).items():
            directory = await self.replay.directory(page)
            if directory is None or number not in list(directory):
                continue
            before, size = directory.count(number), directory.size(number)
            directory.remove(number, gone)
            if number in list(directory):
                before, size = before - directory.count(number), size - directory.size(number)
            if page in log.pages:
                log.add_total(number, -before, -size)
                unit.statements.append(_page_change(directory, page))
            if not list(directory) and page < log.next_offset >> PAGE_BITS:
                log.forget_page(page)
        log.tail.remove(offsets)
        log.pruned_to[number] = max(log.pruned_to.get(number, 0), offsets[-1])
        await self.committed_unit(unit)

    # Step 3

    def dispatch(self, stored: Sequence[Row], rows: Sequence[Row]) -> None:
        """Give every sink the rows of this commit; taps see those of memory topics too."""
        if stored:
            self.routes.dispatch(stored)
        if self.taps.used:
            self.taps.dispatch(rows)

    def matcher(self, filters: Sequence[str]) -> Matcher:
        """A remembered matcher of these filters."""
        key = tuple(filters)
        found = self._matchers.get(key)
        if found is None or len(found) > 200_000:
            if len(self._matchers) > 1_000:
                self._matchers.clear()
            found = self._matchers[key] = Matcher(key)
        return found

    # Readers

    def attach(self, subscription: str, consumer: Consumer, filters: Sequence[str] = ()) -> Attachment:
        """Become a consumer of a subscription."""
        handle = self._handle(subscription)
        if isinstance(handle, QueueHandle):
            if filters:
                raise BrokerError(Code.BAD_OPTION, "a queue is consumed whole; topics narrow streams only")
            self.timed(handle)
            return QueueAttachment(handle, consumer)
        topics: Sequence[str] = handle.spec.topics
        if filters:
            both = [intersection(mine, theirs) for mine in topics for theirs in filters]
            topics = [text for text in dict.fromkeys(both) if text is not None]
        attachment = ReaderAttachment(self, consumer, topics, handle.floor, handle=handle)
        attachment.recovered = not self.replay.lost(topics, handle.floor)
        handle.attachments.append(attachment)
        return attachment

    def follow(self, filters: Sequence[str], start: Start, consumer: Consumer) -> Attachment:
        """Replay and go on live."""
        position, recovered, since = self.replay.resolve(filters, start)
        return ReaderAttachment(self, consumer, filters, position, recovered=recovered, since=since)

    def tap(self, filters: Sequence[str], consumer: Consumer) -> Attachment:
        """See messages pass."""
        return TapAttachment(self, consumer, filters)

    async def read(self, filters: Sequence[str], start: Start, limit: int, max_bytes: int = 4 << 20) -> Page:
        """Replay a piece of the log."""
        position, recovered, since = self.replay.resolve(filters, start)
        page = await self.replay.read(filters, position, limit, max_bytes, since)
        page.recovered = recovered
        return page

    async def read_from(self, filters: Sequence[str], position: int, limit: int) -> Page:
        """Matching rows above a position."""
        return await self.replay.read(filters, position, limit)

    async def fetch(self, offsets: Sequence[int]) -> list[Row]:
        """The rows of these rising offsets that are still there."""
        return await self.replay.fetch(offsets)

    # Subscriptions

    def _handle(self, name: str) -> Handle:
        found = self.handles.get(name)
        if found is None:
            raise BrokerError(Code.UNKNOWN_SUBSCRIPTION, f"{name!r}")
        return found

    def _queue(self, name: str) -> QueueHandle:
        handle = self._handle(name)
        if not isinstance(handle, QueueHandle):
            raise BrokerError(Code.WRONG_KIND, f"{name} is a stream")
        return handle

    async def put_subscription(self, spec: Spec) -> bool:
        """Create or change; True when created."""
        existing = self.handles.get(spec.name)
        if existing is None:
            await self._create(spec)
            return True
        if existing.spec.kind is not spec.kind:
            raise BrokerError(Code.CONFLICT, f"{spec.name} is a {existing.spec.kind.value}")
        await self._change(existing, spec)
        return False

    async def _create(self, spec: Spec) -> None:
        position, _, since = self.replay.resolve(spec.topics, spec.start)
        number = self.next_subscription
        self.next_subscription += 1
        end = self.log.end
        floor = min(position, end)
        unit = InternalUnit()
        text = json.dumps(spec_values(spec))
        unit.statements.append(("INSERT INTO subscription (id, name, spec) VALUES (?,?,?)", (number, spec.name, text)))
        unit.statements += [_filter(number, f, floor) for f in (*spec.topics, *private(spec))]
        unit.statements.append(("INSERT OR REPLACE INTO progress VALUES (?,?)", (number, floor)))
        handle = self._adopt(number, spec, floor)
        if isinstance(handle, QueueHandle):
            handle.queue.scanned = end
            if floor < end:
                handle.loading = True  # nobody is served before the backlog is known
                backlog = await self.replay.offsets(spec.topics, position, since, end)
                handle.queue.restore(backlog)
                await self.restore_headers(handle.queue, backlog)
                handle.queue.restored({}, max(self.log.end, handle.queue.scanned))
                handle.loading = False
                handle.pump()
        try:
            await self.committed_unit(unit)
        except BaseException:
            self._drop(handle)
            raise

    def _adopt(self, number: int, spec: Spec, floor: int) -> Handle:
        """Make the handle of a subscription and route to it."""
        handle: Handle
        if spec.kind is Kind.QUEUE:
            handle = QueueHandle(self, number, Queue(spec, floor, self.wall_ms() << 20))
            self.routes.add([*spec.topics, *private(spec)], handle)
        else:
            handle = StreamHandle(number, spec, floor)
        self.handles[spec.name] = handle
        self._note_caps()
        return handle

    adopt = _adopt

    def _note_caps(self) -> None:
        self.capped = [
            h
            for h in self.handles.values()
            if isinstance(h, QueueHandle)
            and h.spec.overflow is Overflow.REFUSE
            and (h.spec.max_messages or h.spec.max_bytes)
        ]

    async def restore_headers(self, queue: Queue, offsets: Any) -> None:
        """Read what handing out needs to know of messages that are outstanding already."""
        await self.replay.headers(offsets, queue.restore_header, everything=bool(queue.spec.max_bytes))

    async def _change(self, handle: Handle, spec: Spec) -> None:
        old = handle.spec
        end = self.log.end
        unit = InternalUnit()
        text = json.dumps(spec_values(spec))
        unit.statements.append(("UPDATE subscription SET spec = ? WHERE id = ?", (text, handle.number)))
        for text in set(spec.topics) - set(old.topics):
            unit.statements.append(_filter(handle.number, text, end))
        for text in set(old.topics) - set(spec.topics):
            sql = "UPDATE filter SET until = ? WHERE subscription = ? AND filter = ? AND until IS NULL"
            unit.statements.append((sql, (end, handle.number, text)))
        if isinstance(handle, QueueHandle):
            self._respec(handle, spec)
        else:
            handle.spec = spec
        self._note_caps()
        await self.committed_unit(unit)

    def _respec(self, handle: QueueHandle, spec: Spec) -> None:
        old = handle.spec
        if (old.ordered, old.fair, bool(old.max_bytes)) != (spec.ordered, spec.fair, bool(spec.max_bytes)):
            raise BrokerError(
                Code.CONFLICT, "ordered, fair and max_bytes are fixed at creation; delete the subscription to change them"
            )
        self.routes.remove([*old.topics, *private(old)], handle)
        self.routes.add([*spec.topics, *private(spec)], handle)
        handle.queue.spec = spec

    async def delete_subscription(self, name: str) -> None:
        """Forget it."""
        handle = self._handle(name)
        self._drop(handle)
        unit = InternalUnit()
        for table, column in (
            ("subscription", "id"),
            ("filter", "subscription"),
            ("progress", "subscription"),
            ("settled", "subscription"),
            ("redelivery", "subscription"),
        ):
            unit.statements.append((f"DELETE FROM {table} WHERE {column} = ?", (handle.number,)))  # noqa: S608
        await self.committed_unit(unit)

    def _drop(self, handle: Handle) -> None:
        gone = BrokerError(Code.UNKNOWN_SUBSCRIPTION, f"{handle.spec.name} was deleted")
        del self.handles[handle.spec.name]
        self.writer.changed.discard(handle)
        self._note_caps()
        if isinstance(handle, QueueHandle):
            self._timed.discard(handle)
            self.routes.remove([*handle.spec.topics, *private(handle.spec)], handle)
            handle.queue.paused = True
            for member in list(handle.queue.members):
                member.consumer.detached(gone)
            handle.queue.members.clear()
            return
        for attachment in list(handle.attachments):
            attachment.reader.consumer.detached(gone)
            attachment.detach()

    def subscriptions(self) -> list[SubscriptionInfo]:
        """All, by name."""
        return [self.subscription(name) for name in sorted(self.handles)]

    def subscription(self, name: str) -> SubscriptionInfo:
        """One."""
        handle = self._handle(name)
        end = self.log.end
        if isinstance(handle, StreamHandle):
            count = len(handle.attachments)
            return SubscriptionInfo(handle.spec, floor=handle.floor, lag=end - handle.floor, consumers=count)
        queue = handle.queue
        counters = queue.counters
        return SubscriptionInfo(
            handle.spec,
            paused=queue.paused,
            floor=queue.floor,
            lag=len(queue.outstanding),
            ready=queue.ready,
            leased=queue.leased,
            delayed=queue.delayed,
            blocked=queue.blocked,
            consumers=len(queue.members),
            oldest_at=self.replay.about(int(queue.outstanding[0])) if queue.outstanding else None,
            acked=counters.acked,
            retried=counters.retried,
            dead=counters.dead,
            expired=counters.expired,
            dropped=counters.dropped,
        )

    async def pause(self, name: str, paused: bool) -> None:  # noqa: FBT001
        """Stop or resume handing out."""
        handle = self._queue(name)
        unit = InternalUnit()
        unit.statements.append(("UPDATE subscription SET paused = ? WHERE id = ?", (int(paused), handle.number)))
        handle.queue.paused = paused
        await self.committed_unit(unit)
        if not paused:
            handle.pump()

    async def peek(self, name: str, limit: int) -> list[Row]:
        """The oldest outstanding messages."""
        offsets = list(self._queue(name).queue.outstanding[:limit])
        return await self.fetch(offsets) if offsets else []

    async def purge(self, name: str) -> int:
        """Settle everything that is not leased."""
        handle = self._queue(name)
        count = handle.queue.purge()
        self.changed(handle)
        await self.committed_unit(InternalUnit())
        return count

    async def redrive(self, name: str, limit: int) -> int:
        """Put dead letters back into their queue alone."""
        self._queue(name)
        return await self.replay.redrive(name, limit)

    # Keys, schedule, numbers

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """(value, revision) of a key."""
        found: tuple[bytes, int] | None = await self.reader.run(
            lambda db: db.execute("SELECT value, revision FROM kv WHERE key = ?", (key,)).fetchone()
        )
        return found

    async def keys(self, prefix: str) -> list[str]:
        """Keys that begin so."""
        rows = await self.reader.run(
            lambda db: db.execute(
                "SELECT key FROM kv WHERE key >= ? AND substr(key, 1, ?) = ? ORDER BY key",
                (prefix, len(prefix), prefix),
            ).fetchall()
        )
        return [row[0].decode() for row in rows]

    async def scheduled(self, limit: int) -> list[Scheduled]:
        """What waits for its time."""
        return await self.upkeep.waiting(limit)

    async def cancel(self, schedule_id: str) -> bool:
        """Never let it come."""
        return await self.upkeep.cancel(schedule_id)

    def topics(self) -> list[TopicInfo]:
        """All topics with messages."""
        names = self.log.numbers.names
        found = [TopicInfo(names[n], t.messages, t.bytes) for n, t in self.log.totals().items() if t.messages]
        return sorted(found, key=lambda topic: topic.name)

    def stats(self) -> Stats:
        """The engine in numbers."""
        state = "failed" if self.failed else "disk_low" if self.disk_low else "running"
        writer = self.writer
        return Stats(
            state=state,
            reason=self.failed or self.disk_low,
            epoch=self.epoch,
            next_offset=self.log.next_offset,
            commits=writer.commits,
            committed_messages=writer.messages,
            pending_units=writer.pending_units,
            pending_bytes=writer.pending_bytes,
            cache_bytes=self.log.tail.size,
            file_bytes=_size(self.path),
            wal_bytes=_size(self.path.with_name(self.path.name + "-wal")),
            disk_free_bytes=shutil.disk_usage(self.folder).free,
            scheduled=self.upkeep.scheduled_count,
            last_commit_seconds=writer.last_seconds,
        )


def private(spec: Spec) -> tuple[str, ...]:
    """The topic that carries redriven messages to this queue alone."""
    return (f"$redrive/{spec.name}",) if spec.kind is Kind.QUEUE else ()


def _page_change(directory: Directory | SealedDirectory, page: int) -> tuple[str, tuple[Any, ...]]:
    if not list(directory):
        return ("DELETE FROM page WHERE page = ?", (page,))
    return ("UPDATE page SET directory = ? WHERE page = ?", (directory.packed(), page))


def _filter(number: int, text: str, since: int) -> tuple[str, tuple[Any, ...]]:
    return ("INSERT OR REPLACE INTO filter VALUES (?,?,?,NULL)", (number, text, since))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _close_cleanly(db: sqlite3.Connection) -> None:
    db.execute("INSERT OR REPLACE INTO state VALUES ('clean', 1)")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
