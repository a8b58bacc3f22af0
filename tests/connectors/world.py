"""A real engine on a folder of its own, a hub, and clocks that the test moves."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from broker.core.message import Message
from broker.core.position import Start
from broker.engine.sqlite.engine import SqliteEngine
from broker.hub import Hub
from broker.limits import Limits


class Clock:
    """Wall and monotonic time in seconds; it moves when told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Broker:
    """An engine and its hub, which can be stopped and started again on the same folder."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.clock = clock
        self.limits = Limits(max_body=4096)
        self.stopped = True

    async def start(self) -> None:
        self.engine = SqliteEngine(
            self.folder, wall=self.clock, monotonic=self.clock, chance=lambda: 0.5, ticking=False
        )
        await self.engine.start()
        self.hub = Hub(self.engine, self.limits, self.clock)
        await self.hub.retained.load()
        self.stopped = False

    async def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            await self.engine.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def pass_time(self, seconds: float) -> None:
        """Move the clock and do what has come due."""
        self.clock.advance(seconds)
        await self.engine.tick()

    async def messages(self, filter_: str = "#") -> list[Message]:
        """Everything in the log that matches."""
        page = await self.engine.read([filter_], Start("earliest"), 100_000, 1 << 30)
        return [Message.of(row, self.engine.epoch) for row in page.rows]


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Let the loop run until it holds; for what happens on sockets and in threads."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the condition is in another thread or the kernel
            await asyncio.sleep(0.001)
