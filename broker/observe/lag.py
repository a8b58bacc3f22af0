"""How late the event loop comes to what is due: it tells when too much is done on its thread. Floor 1."""

import asyncio
from time import monotonic

from broker.observe.metrics import Histogram

INTERVAL = 0.25
"""Seconds between two samples."""


class LoopLag:
    """Samples from `start` to `stop`; `seconds` has what was found."""

    def __init__(self) -> None:
        self.seconds = Histogram()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._order(asyncio.get_running_loop())

    def stop(self) -> None:
        """End; also before the beginning."""
        if self._timer is not None:
            self._timer.cancel()

    def _order(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(INTERVAL, self._sample, loop, monotonic() + INTERVAL)

    def _sample(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.seconds.observe(max(0.0, monotonic() - due))
        self._order(loop)
