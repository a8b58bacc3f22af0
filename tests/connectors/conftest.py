"""A real engine on a folder of its own, a hub, and a clock that the test moves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.connectors.world import Broker, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def broker(tmp_path: Path, clock: Clock) -> AsyncIterator[Broker]:
    broker = Broker(tmp_path / "data", clock)
    await broker.start()
    yield broker
    await broker.stop()
