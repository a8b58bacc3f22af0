"""Raw drivers of the native protocol: they measure the daemon, not a client library. See `tests/bench/__main__.py`."""

import asyncio
import os
import time
from typing import Any, cast

import msgpack
import uvloop

PUBLISH, ATTACH, CREDIT, SETTLE, REQUEST = 2, 3, 4, 5, 9
WELCOME, CONFIRM, REFUSE, DELIVER, REPLY, ERROR = 32, 33, 34, 35, 38, 39
_pack = msgpack.Packer().pack


def frame(*parts: Any) -> bytes:
    packed: bytes = _pack(parts)
    return len(packed).to_bytes(4, "big") + packed


class Wire(asyncio.Protocol):
    """Frames in and out of one connection; `ready` when greeted."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.done: asyncio.Future[float] = loop.create_future()
        self.reply: asyncio.Future[Any] = loop.create_future()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        transport.write(frame(1, 1, {"client": "bench"}))

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
        if parts[0] == WELCOME:
            self.ready.set_result(parts[2])
        elif parts[0] == REPLY:
            self.reply.set_result(parts[2])
        elif parts[0] in (ERROR, REFUSE):
            raise RuntimeError(f"the broker refused: {parts}")

    async def request(self, verb: str, arguments: Any) -> Any:
        self.reply = asyncio.get_running_loop().create_future()
        self.transport.write(frame(REQUEST, 1, verb, arguments))
        return await self.reply


class Publisher(Wire):
    """Keeps `window` messages unconfirmed until `count` are confirmed."""

    def __init__(self, count: int, window: int, size: int, topics: list[str], ids: str = "") -> None:
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
        if room <= 0:
            return
        first, topics, body = self.sent, self.topics, self.body
        if self.ids:
            batch: list[Any] = [
                (topics[i % len(topics)], body, {"id": f"{self.ids}{i}"}) for i in range(first, first + room)
            ]
        elif len(topics) == 1:
            batch = [(topics[0], body)] * room
        else:
            batch = [(topics[i % len(topics)], body) for i in range(first, first + room)]
        for at in range(0, room, 4096):
            self.transport.write(frame(PUBLISH, first + at + 1, batch[at : at + 4096]))
        self.sent += room

    def frame(self, parts: tuple[Any, ...]) -> None:
        if parts[0] != CONFIRM:
            super().frame(parts)
            return
        self.confirmed = parts[1]
        if self.confirmed >= self.count:
            if not self.done.done():
                self.done.set_result(time.perf_counter())
        else:
            self.pump()


class Consumer(Wire):
    """Acks everything as it comes, until `count` came."""

    def __init__(self, count: int, queue: str, credit: int) -> None:
        super().__init__()
        self.count, self.queue, self.credit = count, queue, credit
        self.got = 0
        self.first = 0.0

    def start(self) -> None:
        self.transport.write(frame(ATTACH, 1, self.queue, {"credit": self.credit}))

    def frame(self, parts: tuple[Any, ...]) -> None:
        if parts[0] != DELIVER:
            super().frame(parts)
            return
        offsets = [row[0] for row in parts[3]]
        self.transport.write(frame(SETTLE, 1, "ack", offsets) + frame(CREDIT, 1, len(offsets)))
        self.first = self.first or time.perf_counter()
        self.got += len(offsets)
        if self.got >= self.count and not self.done.done():
            self.done.set_result(time.perf_counter())


async def connect(port: int, make: Any) -> Any:
    _, protocol = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    await protocol.ready
    return protocol


async def round_trip(
    port: int, count: int, window: int, size: int = 256, topics: int = 1, ids: str = ""
) -> tuple[float, float]:
    """One publisher, one queue, one consumer: (confirmed/s, delivered and acked/s)."""
    name = f"bench-{time.time_ns()}"
    names = [f"{name}/created"] if topics == 1 else [f"{name}/{i}" for i in range(topics)]
    consumer = await connect(port, lambda: Consumer(count, name, max(4096, 2 * window)))
    await consumer.request("subscription.put", {"name": name, "topics": [f"{name}/#"]})
    consumer.start()
    publisher = await connect(port, lambda: Publisher(count, window, size, names, ids))
    await asyncio.sleep(0.1)
    started = time.perf_counter()
    publisher.start()
    confirmed = await asyncio.wait_for(publisher.done, 240)
    acked = await asyncio.wait_for(consumer.done, 240)
    await consumer.request("subscription.delete", {"name": name})
    publisher.transport.close()
    consumer.transport.close()
    return count / (confirmed - started), count / (acked - started)


if __name__ == "__main__":
    import sys

    port, count, window = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    extra = {"topics": int(sys.argv[4]), "ids": f"{time.time_ns()}-"} if len(sys.argv) > 4 else {}
    a, b = uvloop.run(round_trip(port, count, window, **extra))
    print(
        f"postroom       N={count} window={window} body=256 confirmed {a:9.0f}/s  delivered+acked {b:9.0f}/s",
        flush=True,
    )
