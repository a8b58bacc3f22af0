"""Deadlines of connections: what has not happened in time ends the connection, with one timer for all of them.

Every connection of one `Deadlines` has the same time, so that the order of beginning is the order of ending; begin
and end cost a dictionary entry each. Floor 3.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Timer(Protocol):
    """The part of an event loop that is needed."""

    def time(self) -> float:
        """Seconds, monotonic."""

    def call_at(self, when: float, callback: Callable[[], object]) -> "Handle":
        """Call later."""


class Handle(Protocol):
    """A call that was ordered."""

    def cancel(self) -> None:
        """Do not call."""


class Deadlines(Generic[T]):
    """Calls `expired(connection)` for each that began and did not end within `seconds`."""

    def __init__(self, loop: Timer, seconds: float, expired: Callable[[T], object]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._expired = expired
        self._due: dict[T, float] = {}
        self._timer: Handle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def begin(self, connection: T) -> None:
        """Start (or start anew) the time of this connection."""
        self._due.pop(connection, None)
        self._due[connection] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due[connection], self._ring)

    def end(self, connection: T) -> None:
        """It did what it had to, or is gone."""
        self._due.pop(connection, None)

    def close(self) -> None:
        """Forget all."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time()
        late: list[T] = []
        for connection, due in self._due.items():
            if due > now:
                self._timer = self._loop.call_at(due, self._ring)
                break
            late.append(connection)
        for connection in late:
            if self._due.pop(connection, None) is not None:
                self._expired(connection)
