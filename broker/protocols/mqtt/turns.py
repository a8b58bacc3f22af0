"""One after the other by name: who changes a session, or a group, and waits for the disk meanwhile. Floor 4."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Queue:
    __slots__ = ("lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Turns:
    """A lock for each name, there as long as somebody wants it."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._queues

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """What is done within it is done alone."""
        queue = self._queues.setdefault(name, _Queue())
        queue.waiting += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.waiting -= 1
            if not queue.waiting:
                del self._queues[name]
