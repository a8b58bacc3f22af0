"""Futures that somebody may have stopped waiting for."""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any


def resolve(waiter: "asyncio.Future[Any]", result: Any = None) -> None:
    """Set a result unless the waiter was cancelled or answered."""
    if not waiter.done():
        waiter.set_result(result)


def reject(waiter: "asyncio.Future[Any]", error: Exception) -> None:
    """Set an error likewise; it counts as heard even when nobody waits any more."""
    if not waiter.done():
        waiter.set_exception(error)
        waiter.exception()


class Line:
    """Tasks that wait in a line, each for its turn."""

    def __init__(self) -> None:
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiters)

    async def wait(self) -> None:
        """Until woken. One that is cancelled in the turn it was woken passes the wake on."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self.wake(1)
            else:
                with suppress(ValueError):  # a wake may have dropped it already
                    self._waiters.remove(waiter)
            raise

    def wake(self, count: int) -> None:
        """Wake the first `count`."""
        while count > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def wake_all(self) -> None:
        """Wake everybody."""
        self.wake(len(self._waiters))


def reject_all(waiters: Iterable["asyncio.Future[Any]"], error: Exception) -> None:
    """`reject` for each."""
    for waiter in waiters:
        reject(waiter, error)
