"""What the engine does by time: leases and retries, the schedule, the disk, checkpoints, retention, ids. Floor 2."""

import asyncio
import logging
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError
from broker.core.message import NAMED
from broker.engine.base import Waiting
from broker.engine.sqlite.connection import checkpoint, is_passing, transaction
from broker.engine.sqlite.forming import InternalUnit
from broker.engine.sqlite.pruning import Pruning

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

logger = logging.getLogger(__name__)
TICK = 0.05
MAX_DUE = 1_000
MAX_DUE_BYTES = 4 << 20
IDLE = 5.0
PUBLISHER_DAYS = 30
PUBLISHER_SILENCE = 3_600_000  # ms


class Upkeep:
    """See the module. `tick` is called on a timer, or by tests."""

    def __init__(self, engine: "SqliteEngine") -> None:
        self._engine = engine
        self._pruning = Pruning(engine)
        self._tasks: list[asyncio.Task[None]] = []
        self.scheduled_count = 0
        self._next_due: int | None = 0  # unix ms of the soonest scheduled message, if any; 0: look
        self._moving = asyncio.Lock()  # what is cancelled must not be on its way into the log
        self._unchecked = 0
        self._checkpointing: asyncio.Task[None] | None = None
        self._last_commit = engine.monotonic()
        self._next_disk = 0.0
        self._next_prune = engine.monotonic() + 1
        self._next_ids = 0.0

    def start(self) -> None:
        """Begin."""
        self._ballast()
        if self._engine.ticking:
            self._tasks = [
                asyncio.create_task(self._run(self.ring), name="leases, retries, schedule"),
                asyncio.create_task(self._run(self.keep), name="housekeeping"),
            ]

    def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                await self._do(work)
            except BrokerError as error:
                logger.warning("upkeep was refused: %s", error)
            except Exception:
                logger.exception("upkeep failed; it goes on")

    async def tick(self) -> None:
        """Do all that is due."""
        await self._do(self.ring)
        await self._do(self.keep)

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        """A disk that fails here would fail a commit too: nothing more is confirmed then."""
        engine = self._engine
        if engine.failed or engine.stopping:
            return
        try:
            await work()
        except sqlite3.Error as error:
            self._failed(error)

    def _failed(self, error: sqlite3.Error) -> None:
        if is_passing(error):
            logger.warning("upkeep has to wait: %s", error)
        else:
            logger.critical("upkeep failed on the disk; nothing more is confirmed", exc_info=error)
            self._engine.fail(error)

    async def ring(self) -> None:
        """What others wait for to the moment: leases, retries, expiry, the schedule."""
        engine = self._engine
        now, wall = engine.monotonic(), engine.wall_ms()
        for handle in engine.alarms.ringing(now, wall):
            try:
                handle.tick(now, wall, engine.chance())
            except Exception:
                logger.exception("a queue failed at its deadlines", extra={"subscription": handle.spec.name})
        engine.writer.look()
        if self._next_due is not None and self._next_due <= wall:
            await self._move_due(wall)

    async def keep(self) -> None:
        """What may take its time: the disk, checkpoints, retention, old ids."""
        now = self._engine.monotonic()
        if now >= self._next_disk:
            self._next_disk = now + 1
            self._check_disk()
            self._engine.watermark.write(self._engine.epoch, self._engine.log.end + 1)
        if self._unchecked and now - self._last_commit > IDLE:
            await self._checkpoint("TRUNCATE")
            await self._engine.connection.run(lambda db: db.execute("PRAGMA incremental_vacuum(2000)").fetchall())
        if now >= self._next_prune:
            more = await self._pruning.step()
            self._next_prune = now + (0.1 if more else 5)
        if now >= self._next_ids:
            self._next_ids = now + 600
            await self._rotate_ids()
            await self._forget_publishers()

    # Checkpoints: only here, on the writer's connection

    def after_commit(self, size: int) -> None:
        """A commit of about so many bytes is in the WAL."""
        self._last_commit = self._engine.monotonic()
        self._unchecked += size // 3_900 + 4
        if self._unchecked > self._engine.options.checkpoint_pages and self._checkpointing is None:
            self._checkpointing = asyncio.create_task(self._checkpoint("PASSIVE"), name="checkpoint")

    async def _checkpoint(self, mode: str) -> None:
        self._unchecked = 0
        try:
            await self._engine.connection.run(lambda db: checkpoint(db, mode))
        except sqlite3.Error as error:
            self._failed(error)  # a failed fsync may have lost pages that a later one would not report
        finally:
            self._checkpointing = None

    async def settle(self) -> None:
        """Wait for a checkpoint under way."""
        if self._checkpointing is not None:
            await asyncio.wait((self._checkpointing,))

    # Disk

    def _ballast(self) -> None:
        path = self._engine.folder / "ballast"
        size = self._engine.options.ballast
        if size and not path.exists() and shutil.disk_usage(self._engine.folder).free > 20 * size:
            path.write_bytes(b"delete me when the disk is full\n" + bytes(size - 32))

    def _check_disk(self) -> None:
        engine = self._engine
        free = shutil.disk_usage(engine.folder).free
        limit = engine.options.disk_free_limit
        if free < limit and not engine.disk_low:
            engine.disk_low = (
                f"{free >> 20} MiB free, the limit is {limit >> 20} MiB; free space or delete the ballast file"
            )
            logger.error("disk low: publishers are blocked, acks go on", extra={"free": free, "limit": limit})
        elif free >= limit and engine.disk_low:
            engine.disk_low = ""
            logger.warning("disk has room again: publishers go on", extra={"free": free})

    # Schedule

    def planned(self, due: int) -> None:
        """A scheduled message was committed."""
        self.scheduled_count += 1
        if self._next_due is None or due < self._next_due:
            self._next_due = due

    async def _move_due(self, wall: int) -> None:
        """Messages whose time has come enter the log, each piece in one transaction."""
        async with self._moving:
            rows = await self._engine.connection.run(lambda db: _due(db, wall))
            if rows:
                await self._engine.committed_unit(_entering(rows))
        await self._look()

    async def _look(self) -> None:
        # Apart, the one is a look at the index's first entry; together they are a walk over all of it.
        sql = "SELECT (SELECT min(due) FROM schedule), (SELECT count(*) FROM schedule)"
        found = await self._engine.connection.run(lambda db: db.execute(sql).fetchone())
        self._next_due, self.scheduled_count = found

    async def waiting(self, limit: int) -> list[Waiting]:
        """Soonest first."""
        sql = "SELECT id, due, topic FROM schedule ORDER BY due LIMIT ?"
        rows = await self._engine.reader.run(lambda db: db.execute(sql, (limit,)).fetchall())
        return [Waiting(id_.decode(), due, topic.decode()) for id_, due, topic in rows]

    async def cancel(self, schedule_id: str, concerns: Callable[[str], bool]) -> bool:
        """True when it waited; its id is free again, so that it can be scheduled anew."""
        sql = "SELECT id, topic FROM schedule WHERE id = ?"
        async with self._moving:
            found = await self._engine.connection.run(lambda db: db.execute(sql, (schedule_id,)).fetchall())
            rows = [row for row in found if concerns(row[1])]
            if not rows:
                return False
            unit = InternalUnit(unscheduled=rows)
            for id_, topic in rows:
                values = (id_, self._engine.log.numbers[topic])
                for table in ("dedup_young", "dedup_old"):
                    forget = f"DELETE FROM {table} WHERE id = ? AND topic = ? AND offset = -1"  # noqa: S608
                    unit.statements.append((forget, values))
            await self._engine.committed_unit(unit)
        await self._look()
        return True

    # Ids

    async def _rotate_ids(self) -> None:
        """When the young ids are old or many, they become the old ones and those are dropped whole."""
        engine = self._engine
        limit, age = engine.options.dedup_max, engine.options.dedup_days * 86_400_000
        wall = engine.wall_ms()

        def work(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT value FROM state WHERE name = 'ids_since'").fetchone()
            if row is None:
                db.execute("INSERT INTO state VALUES ('ids_since', ?)", (wall,))
                return
            many = db.execute("SELECT value FROM state WHERE name = 'ids'").fetchone()[0]
            if wall - row[0] < age and many < limit:
                return
            with transaction(db):
                db.execute("UPDATE state SET value = 0 WHERE name = 'ids'")
                db.execute("DROP TABLE dedup_old")
                db.execute("ALTER TABLE dedup_young RENAME TO dedup_old")
                db.execute(
                    "CREATE TABLE dedup_young (id TEXT NOT NULL, topic INTEGER NOT NULL, offset INTEGER NOT NULL, "
                    "PRIMARY KEY (id, topic)) STRICT, WITHOUT ROWID"
                )
                db.execute("UPDATE state SET value = ? WHERE name = 'ids_since'", (wall,))

        await engine.connection.run(work)

    async def _forget_publishers(self) -> None:
        """Those that were silent for long may begin anew; when there are too many, silence is long after an hour."""
        wall, publishers = self._engine.wall_ms(), self._engine.publishers
        excess = max(0, len(publishers) - self._engine.options.publishers_max)

        def work(db: sqlite3.Connection) -> list[tuple[str, int]]:
            sql = "SELECT id FROM publisher WHERE at < ? ORDER BY at LIMIT ?"
            found: list[tuple[str, int]] = []
            for silence, most in ((PUBLISHER_DAYS * 86_400_000, -1), (PUBLISHER_SILENCE, excess)):
                values = (wall - silence, most)
                found += db.execute(f"DELETE FROM publisher WHERE id IN ({sql}) RETURNING id, sequence", values)  # noqa: S608
            return found

        for id_, sequence in await self._engine.connection.run(work):
            if publishers.get(id_, (0, []))[0] == sequence:
                del publishers[id_]


_Due = tuple[str, str, int, bytes | None, bytes]
"""(id, topic, due, meta, body) of a scheduled message."""


def _due(db: sqlite3.Connection, wall: int) -> list[_Due]:
    """What is due, soonest first, about as much as one transaction should take."""
    rows: list[_Due] = []
    size = 0
    sql = "SELECT id, topic, due, meta, body FROM schedule WHERE due <= ? ORDER BY due LIMIT ?"
    for row in db.execute(sql, (wall, MAX_DUE)):
        rows.append(row)
        size += len(row[4])
        if size >= MAX_DUE_BYTES:
            break
    return rows


def _entering(rows: list[_Due]) -> InternalUnit:
    """The unit that takes these out of the schedule and into the log."""
    unit = InternalUnit(sender="schedule")
    for index, (id_, topic, _, meta, body) in enumerate(rows):
        unit.publishes.append((topic, meta, body))
        unit.unscheduled.append((id_, topic))
        unit.size += len(body) + len(meta or b"")
        if meta is not None and meta[0] & NAMED:
            unit.entered.append((id_, topic, index))
    return unit
