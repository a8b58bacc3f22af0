"""What the client is tried against: a real broker in this process, and a line to it that can be cut."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from postroom_client import Backoff, Client, connect

from broker.engine.sqlite.engine import SqliteEngine
from broker.engine.sqlite.options import SqliteOptions
from broker.hub import Hub
from broker.limits import Limits
from broker.protocols.native.options import NativeOptions
from broker.protocols.native.server import NativeServer

AT_ONCE = Backoff(initial=0.001, cap=0.005)


class Broker:
    """Engine, hub and native server on a free port, which it keeps over a restart."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.limits = limits or Limits()
        self.port = 0

    async def start(self) -> None:
        self.engine = SqliteEngine(self.folder, SqliteOptions(disk_free_limit=0, ballast=0))
        await self.engine.start()
        self.hub = Hub(self.engine, self.limits)
        self.server = NativeServer(self.hub, NativeOptions())
        sock = socket.create_server(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        await self.server.start([sock])

    async def stop(self) -> None:
        await self.server.stop()
        await self.engine.stop()

    async def drain(self) -> None:
        """As the daemon stops: tell the clients, let them finish, then go."""
        self.server.drain()
        while self.server.connections:  # noqa: ASYNC110  the broker tells nobody
            await asyncio.sleep(0.001)
        await self.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    @property
    def url(self) -> str:
        return f"postroom://127.0.0.1:{self.port}"


class Line:
    """A TCP relay to a port. `cut` breaks all connections; `down` takes no new ones; `deaf` swallows what the broker
    answers, as a connection does that breaks after the broker has done its work."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.deaf = False
        self.down = False
        self.connections = 0
        self.sent: list[bytes] = []  # what clients sent, as it came
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"postroom://127.0.0.1:{self.port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        self._writers |= {writer, back}
        for task in (self._relay(reader, back, False), self._relay(there, writer, True)):
            running = asyncio.create_task(task)
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if answers and self.deaf:
                    continue
                if not answers:
                    self.sent.append(data)
                sink.write(data)
                await sink.drain()
        sink.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        self.cut()
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def a_line(broker: Broker) -> AsyncGenerator[Line, None]:
    line = Line(broker.port)
    await line.start()
    try:
        yield line
    finally:
        await line.stop()


def client(url: str, **options: Any) -> Client:
    """A client that connects again at once."""
    return connect(url, **{"backoff": AT_ONCE, "close_timeout": 5.0, **options})


async def until(condition: Any, within: float = 10.0) -> None:
    """Wait until `condition()` is true."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  any condition
            await asyncio.sleep(0.002)
