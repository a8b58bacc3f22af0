"""The lag of a loop that is kept busy is seen."""

import asyncio
import time

import pytest

from broker.observe import lag
from broker.observe.lag import LoopLag


async def test_what_holds_the_loop_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "INTERVAL", 0.01)
    found = LoopLag()
    found.stop()  # before it began
    found.start()
    await asyncio.sleep(0.005)
    time.sleep(0.2)  # noqa: ASYNC251  this is what it is there to see
    async with asyncio.timeout(5):
        while found.seconds.count < 2:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.005)
    assert 0.1 < found.seconds.sum < 5
    found.stop()
    seen = found.seconds.count
    await asyncio.sleep(0.03)
    assert found.seconds.count == seen
