"""The bare design, as a yardstick: what this machine can do when nothing but the law is kept.

Frames in, one transaction per commit (WAL, synchronous=FULL, one writer thread), then confirms, then deliveries, then
acks that move a floor. No index, dedup, retention, subscriptions, limits or errors: a lower bound on cost, not a
broker. Compare with it in the same run; a ratio holds where an absolute rate does not. Its work per message must stay
as it is, or ratios of different days mean different things.

    python -m tests.bench.prototype PORT FOLDER [FSYNC_DELAY]
"""

import asyncio
import concurrent.futures
import gc
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import msgpack
import uvloop

from tests.bench.child import child, free_port, listening, python
from tests.bench.load import TIME_LIMIT, Load, Rates

PUBLISH, ACK, SUBSCRIBE, DELIVER, CONFIRM = 1, 2, 3, 4, 9
SCHEMA = (
    "pragma journal_mode=wal",
    "pragma synchronous=FULL",
    "pragma wal_autocheckpoint=4000",
    "create table message(offset integer primary key, topic text, at int, headers blob, body blob) strict",
    "create table progress(name text primary key, floor int) strict",
    "insert into progress values('q', 0)",
)

Row = tuple[int, str, int, None, bytes]


class Client(Protocol):
    """A connection as the log sees it; its tags are its own."""

    def confirm(self, tags: list[Any]) -> None: ...

    def deliver(self, rows: Sequence[Row]) -> None: ...


class Log:
    """Group commit: what arrives while one transaction is written forms the next."""

    def __init__(self, folder: Path) -> None:
        self.db = sqlite3.connect(folder / "log.db", isolation_level=None, check_same_thread=False)
        for statement in SCHEMA:
            self.db.execute(statement)
        self.pending: list[tuple[Client, Any, Row]] = []
        self.settled, self.offset, self.floor = False, 0, 0
        self.wake, self.writer = asyncio.Event(), concurrent.futures.ThreadPoolExecutor(1)
        self.subscribers: list[Client] = []

    def transaction(self, rows: Sequence[Row], floor: int) -> None:
        self.db.execute("begin")
        if rows:
            self.db.executemany("insert into message values(?,?,?,?,?)", rows)
        self.db.execute("update progress set floor=? where name='q'", (floor,))
        self.db.execute("commit")

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.wake.wait()
            self.wake.clear()
            batch, self.pending, self.settled = self.pending, [], False
            await loop.run_in_executor(self.writer, self.transaction, [m[2] for m in batch], self.floor)
            confirms: dict[Client, list[Any]] = {}
            for connection, tag, _ in batch:
                confirms.setdefault(connection, []).append(tag)
            for connection, tags in confirms.items():
                connection.confirm(tags)
            if batch:
                for subscriber in self.subscribers:
                    subscriber.deliver([m[2] for m in batch])


class SlowLog(Log):
    """On a disk whose fsync takes `delay` seconds longer."""

    def __init__(self, folder: Path, delay: float) -> None:
        super().__init__(folder)
        self.delay = delay

    def transaction(self, rows: Sequence[Row], floor: int) -> None:
        super().transaction(rows, floor)
        time.sleep(self.delay)


class Connection(asyncio.Protocol):
    """Of a publisher or a consumer."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.above: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.unpacker, self.pack = msgpack.Unpacker(max_buffer_size=1 << 26), msgpack.Packer().pack

    def connection_lost(self, error: Exception | None) -> None:
        self.log.subscribers = [s for s in self.log.subscribers if s is not self]

    def data_received(self, data: bytes) -> None:
        log, now = self.log, time.time_ns()
        self.unpacker.feed(data)
        add = log.pending.append
        for frame in self.unpacker:
            if frame[0] == PUBLISH:
                log.offset += 1
                add((self, frame[1], (log.offset, frame[2], now, None, frame[3])))
            elif frame[0] == ACK:
                self.ack(frame[1])
            elif frame[0] == SUBSCRIBE:
                log.subscribers.append(self)
        if log.pending or log.settled:
            log.wake.set()

    def ack(self, offset: int) -> None:
        log = self.log
        log.settled = True
        if offset != log.floor + 1:
            self.above.add(offset)
            return
        log.floor = offset
        while log.floor + 1 in self.above:
            log.floor += 1
            self.above.remove(log.floor)

    def confirm(self, tags: list[int]) -> None:
        self.transport.write(self.pack((CONFIRM, tags[-1])))

    def deliver(self, rows: Sequence[Row]) -> None:
        pack = self.pack
        self.transport.write(b"".join([pack((DELIVER, r[0], r[1], r[4])) for r in rows]))


async def serve(port: int, log: Log, connection: Callable[[Log], asyncio.Protocol] = Connection) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: connection(log), "127.0.0.1", port)
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    async with server:
        await log.run()


class Driver(asyncio.Protocol):
    """`done` when all `count` messages are; a lost connection ends it with an error."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.unpacker, self.pack = msgpack.Unpacker(), msgpack.Packer().pack
        self.start()

    def start(self) -> None:
        raise NotImplementedError

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the prototype closed the connection: {error}"))
            self.done.exception()  # seen: not always awaited


class Publisher(Driver):
    """Keeps `window` messages unconfirmed."""

    def __init__(self, load: Load) -> None:
        super().__init__(load.count)
        self.window, self.acked, self.sent, self.body = load.window, 0, 0, os.urandom(load.size)

    def start(self) -> None:
        self.pump()

    def pump(self) -> None:
        room = min(self.count, self.acked + self.window) - self.sent
        pack = self.pack
        if room > 0:
            frames = [pack((PUBLISH, self.sent + i + 1, "orders/created", self.body)) for i in range(room)]
            self.transport.write(b"".join(frames))
            self.sent += room

    def data_received(self, data: bytes) -> None:
        self.unpacker.feed(data)
        for frame in self.unpacker:
            self.acked = frame[1]
        if self.acked < self.count:
            self.pump()
        elif not self.done.done():
            self.done.set_result(time.perf_counter())


class Consumer(Driver):
    """Acks everything as it comes."""

    got = 0

    def start(self) -> None:
        self.transport.write(self.pack((SUBSCRIBE,)))

    def data_received(self, data: bytes) -> None:
        self.unpacker.feed(data)
        pack = self.pack
        acks = [pack((ACK, frame[1])) for frame in self.unpacker]
        self.got += len(acks)
        if acks:
            self.transport.write(b"".join(acks))
        if self.got >= self.count and not self.done.done():
            self.done.set_result(time.perf_counter())


class Prototype:
    """The yardstick as something that a load can be put on; it knows one topic and no ids."""

    name = "prototype"
    share = 1.0

    def __init__(self, fsync_delay: float = 0.0) -> None:
        self.fsync_delay = fsync_delay
        self.durability = "fsync before the confirm (SQLite WAL, synchronous=FULL)"

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    async def measure(self, load: Load, folder: Path) -> Rates:
        port = free_port()
        command = python("tests.bench.prototype", str(port), str(folder), str(self.fsync_delay))
        with child(command, folder) as process:
            await listening(process, port, folder)
            return await _drive(port, load)


async def _drive(port: int, load: Load) -> Rates:
    loop = asyncio.get_running_loop()
    _, consumer = await loop.create_connection(lambda: Consumer(load.count), "127.0.0.1", port)
    await asyncio.sleep(0.1)
    started = time.perf_counter()
    _, publisher = await loop.create_connection(lambda: Publisher(load), "127.0.0.1", port)
    confirmed = await asyncio.wait_for(publisher.done, TIME_LIMIT)
    acked = await asyncio.wait_for(consumer.done, TIME_LIMIT)
    publisher.transport.close()
    consumer.transport.close()
    return Rates(load.count / (confirmed - started), load.count / (acked - started))


async def main(port: int, folder: Path, delay: float = 0.0) -> None:
    await serve(port, SlowLog(folder, delay) if delay else Log(folder))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:])))
