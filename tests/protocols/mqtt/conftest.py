from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.protocols.mqtt.door import Door, open_door
from tests.protocols.mqtt.guests import Guests
from tests.system.served import Served

PROFILE = Path(__file__).parents[3] / "config" / "mqtt-conformance.toml"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def conformant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon with the profile for conformance suites; one for all tests of a module."""
    with Served(tmp_path_factory.mktemp("conformant"), PROFILE.read_text()) as served:
        yield served.ready()


@pytest.fixture
async def guests(conformant: Served, request: pytest.FixtureRequest) -> AsyncIterator[Guests]:
    """Its clients, of the version that the test's module says."""
    port = int(conformant.address("mqtt").rpartition(":")[2])
    made = Guests(port, request.module.VERSION, request.node.name)
    yield made
    await made.close()
    assert conformant.errors() == []
