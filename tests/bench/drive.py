"""Raw drivers of the native protocol: they measure the daemon, not a client library. See `tests/bench/__main__.py`."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import msgpack
import uvloop

HELLO, PUBLISH, ATTACH, CREDIT, SETTLE, DETACH, REQUEST = 1, 2, 3, 4, 5, 8, 9
WELCOME, CONFIRM, REFUSE, DELIVER, DETACHED, REPLY, ERROR = 32, 33, 34, 35, 37, 38, 39
BATCH = 4096
"""Messages per PUBLISH frame, at most."""
AT_ONCE = 50
"""Requests that wait for their replies at the same time; the daemon refuses a hundred and more."""
PATIENCE = 240.0
"""Seconds after which a load that is not done has failed."""

_pack = msgpack.Packer().pack


def frame(*parts: Any) -> bytes:
    packed: bytes = _pack(parts)
    return len(packed).to_bytes(4, "big") + packed


class Wire(asyncio.Protocol):
    """Frames in and out of one connection; `ready` when greeted, `done` when its load is. Whatever the broker refuses,
    and a lost connection, ends both with an error."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.done: asyncio.Future[float] = loop.create_future()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.transport.write(frame(HELLO, 1, {"client": "bench"}))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at, end, view = 0, len(data), memoryview(data)
        while end - at >= 4:
            stop = at + 4 + int.from_bytes(view[at : at + 4], "big")
            if stop > end:
                break
            self.frame(msgpack.unpackb(view[at + 4 : stop], use_list=False, strict_map_key=False))
            at = stop
        self._buffer = data[at:]

    def frame(self, parts: tuple[Any, ...]) -> None:
        kind = parts[0]
        if kind == WELCOME:
            self.ready.set_result(parts[2])
        elif kind == REPLY:
            self._replies.pop(parts[1]).set_result(parts[2] if len(parts) > 2 else None)
        elif kind == ERROR and parts[1] in self._replies:
            self._replies.pop(parts[1]).set_exception(RuntimeError(f"the broker refused: {parts[3]}"))
        elif kind in (ERROR, REFUSE) or (kind == DETACHED and not self.done.done()):
            self.fail(RuntimeError(f"the broker refused: {parts}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(ConnectionError(f"the broker closed the connection: {error}"))

    def fail(self, error: Exception) -> None:
        waiters: list[asyncio.Future[Any]] = [self.ready, self.done, *self._replies.values()]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # seen: not all of them are awaited
        self.transport.close()

    def expect(self) -> "tuple[int, asyncio.Future[Any]]":
        """A number for a request, and its reply."""
        self._number += 1
        reply = self._replies[self._number] = asyncio.get_running_loop().create_future()
        return self._number, reply

    async def request(self, verb: str, arguments: Any = None) -> Any:
        number, reply = self.expect()
        self.transport.write(frame(REQUEST, number, verb, arguments))
        return await reply

    async def put_queue(self, name: str, *filters: str) -> None:
        await self.request("subscription.put", {"name": name, "topics": filters})

    async def put_queues(self, entries: Sequence[tuple[str, str]]) -> None:
        """Many queues, of one filter each."""
        for at in range(0, len(entries), AT_ONCE):
            await asyncio.gather(*(self.put_queue(*entry) for entry in entries[at : at + AT_ONCE]))

    async def finished(self) -> float:
        """When the load was done, by perf_counter. Raises TimeoutError, or what went wrong."""
        return await asyncio.wait_for(self.done, PATIENCE)

    def close(self) -> None:
        self.transport.close()


class Publisher(Wire):
    """Keeps `window` messages unconfirmed until `count` are confirmed. With `ids`, each has one that begins so."""

    def __init__(self, count: int, window: int, size: int, topics: Sequence[str], ids: str = "") -> None:
        super().__init__()
        self.count, self.window = count, window
        self.confirmed = self.sent = 0
        self.body = os.urandom(size)
        self.topics = topics
        self.ids = ids

    def start(self) -> None:
        self.pump()

    def pump(self) -> None:
        room = min(self.count, self.confirmed + self.window) - self.sent
        while room > 0:
            batch = self.batch(self.sent, min(room, BATCH))
            self.transport.write(frame(PUBLISH, self.sent + 1, batch))
            self.sent += len(batch)
            room -= len(batch)

    def batch(self, first: int, count: int) -> list[Any]:
        topics, body, ids = self.topics, self.body, self.ids
        if ids:
            return [(topics[i % len(topics)], body, {"id": f"{ids}{i}"}) for i in range(first, first + count)]
        if len(topics) == 1:
            return [(topics[0], body)] * count
        return [(topics[i % len(topics)], body) for i in range(first, first + count)]

    def frame(self, parts: tuple[Any, ...]) -> None:
        if parts[0] != CONFIRM:
            super().frame(parts)
            return
        self.confirmed = parts[1]
        if self.confirmed < self.count:
            self.pump()
        elif not self.done.done():
            self.done.set_result(time.perf_counter())


class Consumer(Wire):
    """Acks everything as it comes, until `count` came."""

    def __init__(self, count: int, queue: str, credit: int) -> None:
        super().__init__()
        self.count, self.queue, self.credit = count, queue, credit
        self.got = 0

    def start(self) -> None:
        self.transport.write(frame(ATTACH, 1, self.queue, {"credit": self.credit}))

    def frame(self, parts: tuple[Any, ...]) -> None:
        if parts[0] != DELIVER:
            super().frame(parts)
            return
        offsets = [row[0] for row in parts[3]]
        self.transport.write(frame(SETTLE, 1, "ack", offsets) + frame(CREDIT, 1, len(offsets)))
        self.got += len(offsets)
        if self.got >= self.count and not self.done.done():
            self.done.set_result(time.perf_counter())

    async def check(self) -> None:
        """The daemon agrees that all were acked. Raises RuntimeError."""
        info = await self.request("subscription.get", {"name": self.queue})
        if info["acked"] != self.count or info["ready"] or info["leased"]:
            counts = {name: info[name] for name in ("acked", "ready", "leased", "delayed", "blocked")}
            raise RuntimeError(f"{self.count} were published, but the queue says {counts}")


W = TypeVar("W", bound=Wire)


async def connect(port: int, make: Callable[[], W]) -> W:
    _, protocol = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    await asyncio.wait_for(protocol.ready, PATIENCE)
    return protocol


async def round_trip(
    port: int, count: int, window: int, size: int = 256, topics: int = 1, ids: str = ""
) -> tuple[float, float]:
    """One publisher, one queue, one consumer: (confirmed/s, delivered and acked/s)."""
    name = f"bench-{time.time_ns()}"
    names = [f"{name}/created"] if topics == 1 else [f"{name}/{i}" for i in range(topics)]
    consumer = await connect(port, lambda: Consumer(count, name, max(4096, 2 * window)))
    await consumer.put_queue(name, f"{name}/#")
    consumer.start()
    publisher = await connect(port, lambda: Publisher(count, window, size, names, ids))
    await asyncio.sleep(0.1)
    started = time.perf_counter()
    publisher.start()
    confirmed = await publisher.finished()
    acked = await consumer.finished()
    await consumer.check()
    await consumer.request("subscription.delete", {"name": name})
    publisher.close()
    consumer.close()
    return count / (confirmed - started), count / (acked - started)


async def publish(port: int, count: int, window: int, topic: str, size: int = 256) -> float:
    """One publisher, nobody else: confirmed/s."""
    publisher = await connect(port, lambda: Publisher(count, window, size, [topic]))
    started = time.perf_counter()
    publisher.start()
    confirmed = await publisher.finished()
    publisher.close()
    return count / (confirmed - started)


async def drain(port: int, count: int, queue: str, credit: int) -> float:
    """One consumer takes and acks `count` messages that wait: messages/s until all acks are on disk."""
    consumer = await connect(port, lambda: Consumer(count, queue, credit))
    started = time.perf_counter()
    consumer.start()
    await consumer.finished()
    number, committed = consumer.expect()
    consumer.transport.write(frame(SETTLE, 1, "ack", [], None, number))  # answered after the commit of those before it
    await committed
    seconds = time.perf_counter() - started
    consumer.close()
    return count / seconds


if __name__ == "__main__":
    import sys

    port, count, window = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    topics, ids = (int(sys.argv[4]), f"{time.time_ns()}-") if len(sys.argv) > 4 else (1, "")
    a, b = uvloop.run(round_trip(port, count, window, topics=topics, ids=ids))
    print(
        f"postroom       N={count} window={window} body=256 confirmed {a:9.0f}/s  delivered+acked {b:9.0f}/s",
        flush=True,
    )
