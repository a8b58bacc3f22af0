"""Tasks that run as long as the daemon: kept alive, and ended by name. Floor 5."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

FIRST_REST, LONGEST_REST = 1.0, 30.0
"""Seconds before a task that failed is started again."""

Run = Callable[[], Coroutine[Any, Any, None]]


class Tasks:
    """`running`: all of them, by name."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Task[None]] = {}

    def keep(self, name: str, run: Run) -> None:
        """Run this from now on; one that fails is told and started again, and harms no other. One that returns is
        done."""
        self.running[name] = asyncio.create_task(_kept(name, run), name=name)

    async def end(self, *names: str) -> None:
        """Cancel these tasks as far as they are there, or all, and wait for their ends."""
        await cancelled(*(self.running.pop(name) for name in names or list(self.running) if name in self.running))


async def _kept(name: str, run: Run) -> None:
    rest = FIRST_REST
    while True:
        try:
            return await run()
        except Exception:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # it failed while it was being ended
                raise
            log.exception("a task failed; it is started again", extra={"task": name, "after_seconds": rest})
        await asyncio.sleep(rest)
        rest = min(2 * rest, LONGEST_REST)


async def cancelled(*tasks: "asyncio.Task[Any]") -> None:
    """End these tasks; one that fails at its end is told and stops nothing."""
    for task in tasks:
        task.cancel()
    for task, result in zip(tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
        if isinstance(result, Exception):
            log.error("a task failed at its end", extra={"task": task.get_name()}, exc_info=result)
