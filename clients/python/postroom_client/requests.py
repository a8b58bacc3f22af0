"""Questions that wait for REPLY or ERROR (PROTOCOL.md, *Requests*), also over a lost connection where that is safe."""

import asyncio
from collections.abc import Callable
from typing import Any

from postroom_client import wire
from postroom_client.errors import ConnectionLost, PostroomError
from postroom_client.waiting import reject, reject_all, resolve

UNREPEATABLE = frozenset(("subscription.delete", "queue.purge", "queue.redrive", "queue.purge_dead", "schedule.cancel"))
"""Verbs that are not sent again over a new connection: done twice they would answer wrongly."""

Ask = Callable[[int], tuple[Any, ...]]
"""Makes the frame for a request number."""


class Requests:
    """`send` sends one frame, or drops it while there is no connection."""

    def __init__(self, send: Callable[[tuple[Any, ...]], None]) -> None:
        self._send = send
        self._number = 0
        self._open: dict[int, tuple[asyncio.Future[Any], tuple[Any, ...] | None]] = {}

    async def ask(self, frame: Ask, *, repeat: bool = False) -> Any:
        """Send, and wait for the answer. Raises the broker's refusal; ConnectionLost when the connection breaks, unless
        the request may be repeated: then it is asked again."""
        self._number += 1
        number = self._number
        asked = frame(number)
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[number] = (waiter, asked if repeat else None)
        self._send(asked)
        try:
            return await waiter
        finally:
            self._open.pop(number, None)

    def request(self, verb: str, arguments: dict[str, Any] | None) -> Any:
        """REQUEST; returns a coroutine of the result."""
        repeat = verb not in UNREPEATABLE
        return self.ask(lambda number: (wire.REQUEST, number, verb, arguments), repeat=repeat)

    def reply(self, frame: wire.Frame) -> None:
        """REPLY."""
        _, number, result = wire.padded(frame, 3)
        if number in self._open:
            resolve(self._open[number][0], result)

    def error(self, number: int, error: PostroomError) -> None:
        """ERROR of a request."""
        if number in self._open:
            reject(self._open[number][0], error)

    def lost(self) -> None:
        """The connection broke."""
        for waiter, again in self._open.values():
            if again is None:
                reject(waiter, ConnectionLost("the connection broke before the answer; whether it was done is unknown"))

    def again(self) -> list[tuple[Any, ...]]:
        """Frames to ask again on a new connection."""
        return [again for waiter, again in self._open.values() if again is not None and not waiter.done()]

    def fail(self, error: PostroomError) -> None:
        """Nothing will be answered any more."""
        reject_all([waiter for waiter, _ in self._open.values()], error)
