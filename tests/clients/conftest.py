"""A running broker per test, and the fixtures that users of the client get."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from postroom_client.pytest_plugin import postroom, postroom_server

from tests.clients.world import Broker, Line, a_line

__all__ = ["broker", "line", "postroom", "postroom_server"]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Broker, None]:
    broker = Broker(tmp_path)
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def line(broker: Broker) -> AsyncGenerator[Line, None]:
    async with a_line(broker) as line:
        yield line
