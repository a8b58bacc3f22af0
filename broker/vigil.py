"""What is watched while the daemon runs, and what the service manager hears of it. Floor 6."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from broker.core.errors import BrokerError
from broker.engine.base import Unit
from broker.hub import Hub
from broker.observe.notify import Notifier

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at the engine's state."""


class Vigil:
    """`addresses`: where each door is reached."""

    def __init__(self, hub: Hub, notifier: Notifier, addresses: Callable[[], Mapping[str, list[str]]]) -> None:
        self._hub = hub
        self._notifier = notifier
        self._addresses = addresses
        self._state = "running"

    async def watch_state(self) -> None:
        """Say when the engine stops taking messages and takes them again, and when limits are no longer felt."""
        while True:
            stats = self._hub.engine.stats()
            if stats.state != self._state:
                self._state = stats.state
                level = logging.INFO if stats.state == "running" else logging.CRITICAL
                log.log(level, "engine %s", stats.state, extra={"reason": stats.reason})
                self._notifier.status(self.status())
            self._hub.flow.limited.tick()
            await asyncio.sleep(LOOK)

    async def feed_watchdog(self) -> None:
        """Three times per period: only when an empty unit came back from the writer is the daemon alive."""
        period = self._notifier.watchdog_seconds or LOOK
        while True:
            if await self._is_alive(period):
                self._notifier.alive()
            await asyncio.sleep(period / 3)

    async def _is_alive(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                await self._hub.committed(Unit(sender=self))
        except (BrokerError, TimeoutError) as error:
            log.error("the writer gives no sign of life", extra={"error": str(error)})  # noqa: TRY400
            return False
        return True

    def status(self) -> str:
        """One line."""
        if self._state != "running":
            return f"{self._state}: {self._hub.engine.stats().reason}"
        return "serving " + ", ".join(f"{door} on {' '.join(found)}" for door, found in self._addresses().items())
