"""The embedded engine: wires log, writer, routes, queues and streams over one SQLite file, and keeps the promises of
`broker.engine.base`. What each part decides stands in its own module. Floor 2.
"""

import asyncio
import logging
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from broker.core.errors import BrokerError, Code
from broker.core.message import Draft, Row
from broker.core.position import Start
from broker.core.queue import Queue
from broker.core.retention import Durability, Policies
from broker.core.subscription import Consumer, Spec
from broker.core.topic import intersection
from broker.engine.base import (
    Attachment,
    Capabilities,
    Page,
    Receipt,
    Refused,
    Stats,
    SubscriptionInfo,
    TopicInfo,
    Unit,
    Waiting,
)
from broker.engine.sqlite.alarms import Alarms
from broker.engine.sqlite.catalog import Catalog
from broker.engine.sqlite.connection import Connection, open_reader, open_writer, unusable
from broker.engine.sqlite.forming import Handle
from broker.engine.sqlite.handles import QueueAttachment, QueueHandle, dismiss
from broker.engine.sqlite.log import Log, Tail
from broker.engine.sqlite.matchers import Matchers
from broker.engine.sqlite.options import SqliteOptions
from broker.engine.sqlite.recovery import recover
from broker.engine.sqlite.relay import Relay
from broker.engine.sqlite.replay import Replay
from broker.engine.sqlite.routes import Routes
from broker.engine.sqlite.streams import ReaderAttachment, TapAttachment
from broker.engine.sqlite.upkeep import Upkeep
from broker.engine.sqlite.watermark import Watermark
from broker.engine.sqlite.writer import Writer

logger = logging.getLogger(__name__)
_END = "?1 || CAST(x'ff' AS TEXT)"
"""No byte of UTF-8 is as large as that one."""
_ITEMS = f"SELECT key, value, revision FROM kv WHERE key >= ?1 AND key < {_END} ORDER BY key"  # noqa: S608
_KEYS = f"""
SELECT key FROM kv WHERE key >= max(?1, ifnull(?2, '')) AND key IS NOT ?2 AND key < {_END} ORDER BY key LIMIT ?3
"""  # noqa: S608


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
        self.catalog = Catalog(self)
        self.relay = Relay(self)
        self.removing = asyncio.Lock()  # one at a time changes the directories of pages
        self.attachments: set[ReaderAttachment] = set()
        self.publishers: dict[str, tuple[int, list[Refused]]] = {}
        self.next_revision = 1
        self.lease_base = int.from_bytes(os.urandom(5), "big") << 22  # no lease number returns after a restart
        self.failed = ""
        self.disk_low = ""
        self.stopping = False
        self.matchers = Matchers()
        self._tasks: set[asyncio.Task[None]] = set()
        self.alarms = Alarms()
        self.watermark = Watermark(folder)

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
        try:
            self.reader: Connection = await open_reader(self.path)
        except BaseException as error:
            await self.connection.close()
            if isinstance(error, sqlite3.Error):
                raise unusable(self.path, error) from error
            raise
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
        for handle in self.catalog.handles.values():
            if isinstance(handle, QueueHandle):
                for member in list(handle.queue.members):
                    dismiss(member.consumer, goodbye)
                    handle.queue.leave(member, lost=False, wall=self.wall_ms())
        for attachment in list(self.attachments):
            dismiss(attachment.reader.consumer, goodbye)
            attachment.detach()
        self.writer.changed.update(self.catalog.handles.values())
        self.writer.stop()
        await self._main
        await self.upkeep.settle()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        try:
            if not self.failed:
                self.watermark.write(self.epoch, self.log.end + 1)
                await self.connection.run(_close_cleanly)
        except (sqlite3.Error, OSError) as error:
            logger.warning("not closed cleanly, the next start checks the file: %s", error)
        finally:
            await self._close()

    async def _close(self) -> None:
        await self.reader.close()
        await self.connection.close()

    def fail(self, error: Exception) -> None:
        """A write failed: nothing more is confirmed or handed out. What fails after it is only what follows from it."""
        if self.failed:
            return
        self.failed = str(error) or repr(error)
        self.writer.give_up()
        refusal = BrokerError(Code.STORAGE_FAILED, self.failed)
        for handle in self.catalog.handles.values():
            if isinstance(handle, QueueHandle):
                for member in list(handle.queue.members):
                    dismiss(member.consumer, refusal)
        for attachment in list(self.attachments):
            dismiss(attachment.reader.consumer, refusal)
            attachment.detach()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a read of the log beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a read of the log failed; it is tried again when something happens", exc_info=error)

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
        if self.disk_low and unit.brings():
            raise BrokerError(Code.DISK_LOW, self.disk_low)
        self.writer.submit(unit)

    def publisher(self, publisher: str) -> tuple[int, list[Refused]]:
        """Last sequence and refused ones."""
        return self.publishers.get(publisher, (0, []))

    async def committed_unit(self, unit: Unit) -> Receipt:
        """Commit a unit of the engine's own and wait for it. Raises its error."""
        if self.failed:
            raise BrokerError(Code.STORAGE_FAILED, self.failed)
        if self.stopping:  # the writer may have ended: nobody would answer
            raise BrokerError(Code.SHUTTING_DOWN)
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

    def changed(self, handle: Handle) -> None:
        """There is progress of this subscription to persist."""
        self.writer.mark(handle)
        if isinstance(handle, QueueHandle):
            self.alarms.touch(handle)

    def queues(self) -> list[Queue]:
        """All queue machines."""
        return [h.queue for h in self.catalog.handles.values() if isinstance(h, QueueHandle)]

    # Step 3

    def dispatch(self, stored: Sequence[Row], rows: Sequence[Row]) -> None:
        """Give every sink the rows of this commit; taps see those of memory topics too."""
        if stored:
            self.routes.dispatch(stored)
        if len(stored) < len(rows):
            self.routes.pass_by([row for row in rows if not row[0]])
        if self.taps.used:
            self.taps.dispatch(rows)

    def keeps(self, topic: str) -> bool:
        """Must a message that promises nothing be stored all the same?"""
        return self.relay.keeps(topic)

    def pass_by(self, drafts: Sequence[Draft]) -> None:
        """Show messages to who listens now."""
        self.relay.pass_by(drafts)

    # Readers

    def attach(self, subscription: str, consumer: Consumer, filters: Sequence[str] = ()) -> Attachment:
        """Become a consumer of a subscription."""
        if self.failed:
            raise BrokerError(Code.STORAGE_FAILED, self.failed)
        handle = self.catalog.handle(subscription)
        if isinstance(handle, QueueHandle):
            if filters:
                raise BrokerError(Code.BAD_OPTION, "a queue is consumed whole; topics narrow streams only")
            self.alarms.touch(handle)
            return QueueAttachment(handle, consumer)
        topics: Sequence[str] = handle.spec.topics
        if filters:
            both = [intersection(mine, theirs) for mine in topics for theirs in filters]
            topics = [text for text in dict.fromkeys(both) if text is not None]
        attachment = ReaderAttachment(self, consumer, topics, handle.floor, handle=handle)
        attachment.recovered = not self.replay.lost(topics, handle.floor)
        handle.attachments.append(attachment)
        return attachment

    def follow(self, filters: Sequence[str], start: Start, consumer: Consumer, *, passing: bool = False) -> Attachment:
        """Replay and go on live."""
        position, recovered, since = self.replay.resolve(filters, start)
        return ReaderAttachment(self, consumer, filters, position, recovered=recovered, since=since, passing=passing)

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

    async def fetch_within(self, offsets: Sequence[int], size: int) -> tuple[list[Row], int]:
        """The rows of the first of these offsets (in any order) whose bodies take `size` bytes together, one at
        least, and how many offsets that are; the rows rise."""
        return await self.replay.fetch_within(offsets, size)

    # Subscriptions

    async def put_subscription(self, spec: Spec) -> bool:
        """Create or change; True when created."""
        return await self.catalog.put(spec)

    async def delete_subscription(self, name: str) -> None:
        """Forget it."""
        await self.catalog.delete(name)

    def specs(self) -> list[Spec]:
        """The settings of all."""
        return [handle.spec for handle in self.catalog.handles.values()]

    def subscriptions(self) -> list[SubscriptionInfo]:
        """All, by name."""
        return self.catalog.infos()

    def subscription(self, name: str) -> SubscriptionInfo:
        """One."""
        return self.catalog.info(name)

    async def pause(self, name: str, paused: bool) -> None:
        """Stop or resume handing out."""
        await self.catalog.pause(name, paused)

    async def peek(self, name: str, limit: int, after: int = -1, max_bytes: int = 4 << 20) -> list[Row]:
        """The oldest outstanding messages."""
        return await self.catalog.peek(name, limit, after, max_bytes)

    def outstanding(self, name: str, offsets: Iterable[int]) -> set[int]:
        """Which are not settled."""
        outstanding = self.catalog.queue(name).queue.outstanding
        return {offset for offset in offsets if offset in outstanding}

    def weight(self, name: str) -> tuple[int, int]:
        """Messages and bytes outstanding."""
        queue = self.catalog.queue(name).queue
        return len(queue.outstanding), queue.size

    async def trim(self, name: str, max_bytes: int) -> int:
        """Drop the oldest that wait."""
        return await self.catalog.trim(name, max_bytes)

    async def purge(self, name: str) -> int:
        """Settle everything that is not leased."""
        return await self.catalog.purge(name)

    async def redrive(self, name: str, limit: int) -> int:
        """Put dead letters back into their queue alone."""
        return await self.catalog.redrive(name, limit)

    async def purge_dead(self, name: str, limit: int) -> int:
        """Delete dead letters."""
        return await self.catalog.purge_dead(name, limit)

    # Keys, schedule, numbers

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """(value, revision) of a key."""
        found: tuple[bytes, int] | None = await self.reader.run(
            lambda db: db.execute("SELECT value, revision FROM kv WHERE key = ?", (key,)).fetchone()
        )
        return found

    async def items(self, prefix: str) -> list[tuple[str, bytes, int]]:
        """(key, value, revision) of those that begin so."""
        found = await self.reader.run(lambda db: db.execute(_ITEMS, (prefix,)).fetchall())
        return [(key.decode(), value, revision) for key, value, revision in found]

    async def keys(self, prefix: str, after: str | None = None, limit: int = 10_000) -> list[str]:
        """Keys that begin so."""
        found = await self.reader.run(lambda db: db.execute(_KEYS, (prefix, after, limit)).fetchall())
        return [key.decode() for (key,) in found]

    async def scheduled(self, limit: int) -> list[Waiting]:
        """What waits for its time."""
        return await self.upkeep.waiting(limit)

    async def cancel(self, schedule_id: str, concerns: Callable[[str], bool] = lambda _: True) -> bool:
        """Never let it come."""
        return await self.upkeep.cancel(schedule_id, concerns)

    def topic_names(self) -> list[str]:
        """The topics with messages."""
        names = self.log.numbers.names
        return [names[number] for number in self.log.topics()]

    def topics(self, names: Iterable[str] | None = None) -> list[TopicInfo]:
        """The same with their sums."""
        wanted = self.topic_names() if names is None else names
        numbers = self.log.numbers
        found = [(name, self.log.total_of(numbers.get(name, 0))) for name in sorted(wanted)]
        return [TopicInfo(name, total.messages, total.bytes) for name, total in found if total.messages]

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
            subscriptions=len(self.catalog.handles),
            last_commit_seconds=writer.last_seconds,
            extra={
                "commit_seconds": writer.commit_seconds,
                "fsync_seconds": writer.fsync_seconds,
                "commit_messages": writer.commit_messages,
                "blocked_units": writer.blocked_units,
            },
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _close_cleanly(db: sqlite3.Connection) -> None:
    db.execute("INSERT OR REPLACE INTO state VALUES ('clean', 1)")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
