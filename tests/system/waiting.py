"""Waiting for what another process does: look again and again until it is so, or fail."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from tests.system.served import WITHIN

LOOK = 0.01
"""Seconds between two looks."""


async def until(condition: Callable[[], object | Awaitable[object]], within: float = WITHIN) -> None:
    """Until `condition()`, awaited if it can be, is true. Fails after `within` seconds."""
    for _ in range(int(within / LOOK)):
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        await asyncio.sleep(LOOK)
    raise AssertionError("it did not come about in time")
