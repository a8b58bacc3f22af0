"""Another broker to bridge to."""

from collections.abc import AsyncIterator

import pytest

from tests.connectors.mqtt_bridge.upstream import Upstream, open_upstream


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with open_upstream() as found:
        yield found
