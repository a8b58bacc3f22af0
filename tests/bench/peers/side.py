"""What the drivers of all peers share: one connection that publishes or consumes a load, framed by its subclass."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar, cast

from tests.bench.load import TIME_LIMIT, Load, Rates


class Side(asyncio.Protocol):
    """`ready` when the server greeted it, `done` when all messages are. Any error ends both."""

    def __init__(self, load: Load) -> None:
        loop = asyncio.get_running_loop()
        self.load = load
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[float] = loop.create_future()
        self.settled = 0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.greet()

    def greet(self) -> None:
        """Say what the protocol begins with."""
        self.ready.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self.received(data)
        except Exception as error:
            self.fail(error)

    def received(self, data: bytes) -> None:
        """Bytes of the server."""
        raise NotImplementedError

    def settle(self, count: int) -> None:
        """So many more are confirmed (of a publisher) or acked (of a consumer)."""
        self.settled += count
        if self.settled >= self.load.count and not self.done.done():
            self.done.set_result(time.perf_counter())

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(ConnectionError(f"the server closed the connection: {error}"))

    def fail(self, error: Exception) -> None:
        for waiter in (self.ready, self.done):
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # seen: not both are awaited
        self.transport.close()


class PublishingSide(Side):
    """Keeps the load's window of messages unconfirmed."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.sent = 0
        self.started = 0.0

    def begin(self) -> None:
        self.started = time.perf_counter()
        self.pump()

    def pump(self) -> None:
        room = min(self.load.count, self.settled + self.load.window) - self.sent
        if room > 0:
            self.transport.write(self.frames(room))
            self.sent += room

    def frames(self, count: int) -> bytes:
        """So many messages."""
        raise NotImplementedError


S = TypeVar("S", bound=Side)


async def connect(port: int, make: Callable[[], S]) -> S:
    _, side = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    await asyncio.wait_for(side.ready, TIME_LIMIT)
    return side


async def measure(
    port: int, load: Load, publisher: Callable[[], PublishingSide], consumer: Callable[[], Side]
) -> Rates:
    """The consumer first, then the load."""
    taking = await connect(port, consumer)
    giving = await connect(port, publisher)
    giving.begin()
    confirmed = await asyncio.wait_for(giving.done, TIME_LIMIT) - giving.started
    acked = await asyncio.wait_for(taking.done, TIME_LIMIT) - giving.started
    giving.transport.close()
    taking.transport.close()
    return Rates(load.count / confirmed, load.count / acked)
