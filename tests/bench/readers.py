"""Many readers of one stream in a process of their own, that do nothing but count events, and note how old they are.

    python -m tests.bench.readers sse|websocket PORT READERS MESSAGES TOPIC

Prints `ready` when all are connected and told their start, and a line of JSON when each has got all messages. A body
begins with the time of sending, twenty digits of `perf_counter_ns`, a clock that all processes of this machine share.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import cast

import uvloop

from tests.bench.figures import percentile

STAMP = 20
MARK = b'"body":"'
"""Stands before the stamp in each message, and nowhere else."""
AT_ONCE = 200
"""Connections that are made at the same time."""
WITHIN = 240.0
SPARE_FILES = 100
HEAD = "GET /v1/stream{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
KEY = "AAAAAAAAAAAAAAAAAAAAAA=="


class Crowd:
    """What all readers together have got."""

    def __init__(self, readers: int, messages: int) -> None:
        loop = asyncio.get_running_loop()
        self.readers, self.messages = readers, messages
        self.latencies: list[float] = []
        self.size = 0
        self._started = self._done = 0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[float] = loop.create_future()

    def started(self) -> None:
        """One more reader was told its start."""
        self._started += 1
        if self._started == self.readers:
            self.ready.set_result(None)

    def finished(self) -> None:
        """One more has got all."""
        self._done += 1
        if self._done == self.readers:
            self.done.set_result(time.perf_counter())

    def fail(self, error: Exception) -> None:
        for future in (self.ready, self.done):
            if not future.done():
                future.set_exception(error)


class Reader(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: Crowd, request: bytes, then: bytes, start: bytes) -> None:
        self._crowd = crowd
        self._request, self._then, self._start = request, then, start
        self._got = 0
        self._tail = b""
        self._begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if self._got < self._crowd.messages:
            self._crowd.fail(ConnectionError(f"a reader lost its connection: {error}, {self._tail[:500]!r}"))

    def data_received(self, data: bytes) -> None:
        self._crowd.size += len(data)
        if not self._begun:
            self._greeted(data)
            return
        if self._tail:
            data = self._tail + data
        now, at, mark = time.perf_counter_ns(), data.find(MARK), len(MARK)
        end = 0
        while at >= 0 and at + mark + STAMP <= len(data):
            end = at + mark + STAMP
            self._crowd.latencies.append((now - int(data[end - STAMP : end])) / 1e6)
            self._got += 1
            at = data.find(MARK, end)
        self._tail = data[max(end, len(data) - mark - STAMP) :]
        if self._got == self._crowd.messages:
            self._crowd.finished()

    def _greeted(self, data: bytes) -> None:
        self._tail += data
        if self._then and b'"welcome"' in self._tail:
            self._transport.write(self._then)
            self._then = b""
        if self._start in self._tail:
            self._begun, self._tail = True, b""
            self._crowd.started()


def sse(crowd: Crowd, topic: str) -> Callable[[], Reader]:
    request = HEAD.format(query=f"?topic={topic}", more="").encode()
    return lambda: Reader(crowd, request, b"", b"event: start")


def websocket(crowd: Crowd, topic: str) -> Callable[[], Reader]:
    request = HEAD.format(query="", more=UPGRADE.format(key=KEY)).encode()
    text = json.dumps({"type": "subscribe", "sub": 1, "topics": [topic]}).encode()
    subscribe = bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text  # masked with zeros (RFC 6455 §5.3)
    return lambda: Reader(crowd, request, subscribe, b'"type":"start"')


async def follow(make: Callable[[Crowd, str], Callable[[], Reader]], port: int, crowd: Crowd, topic: str) -> None:
    loop, reader = asyncio.get_running_loop(), make(crowd, topic)
    for first in range(0, crowd.readers, AT_ONCE):
        count = min(AT_ONCE, crowd.readers - first)
        await asyncio.gather(*(loop.create_connection(reader, "127.0.0.1", port) for _ in range(count)))
    async with asyncio.timeout(WITHIN):
        await crowd.ready
        print("ready", flush=True)
        done = await crowd.done
    told = {"done": done, "bytes": crowd.size} | {f"p{p}": percentile(crowd.latencies, p) for p in (50, 99, 100)}
    print(json.dumps(told), flush=True)


async def main() -> None:
    kind, port, readers, messages, topic = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(int(readers) + SPARE_FILES, hard), hard))
    crowd = Crowd(int(readers), int(messages))
    await follow({"sse": sse, "websocket": websocket}[kind], int(port), crowd, topic)


if __name__ == "__main__":
    uvloop.run(main())
