"""The embedded engine takes the conformance suite."""

from pathlib import Path

import pytest

from broker.core.retention import Policies
from broker.engine.sqlite.engine import SqliteEngine
from broker.engine.sqlite.options import SqliteOptions
from tests.engine.conformance import *  # noqa: F403
from tests.engine.world import Clock, EngineFactory

OPTIONS = SqliteOptions(disk_free_limit=0, ballast=0)


@pytest.fixture(scope="session")
def engine_factory() -> EngineFactory:
    """Time passes only by the test's clock."""

    def make(folder: Path, clock: Clock, policies: Policies) -> SqliteEngine:
        return SqliteEngine(
            folder, OPTIONS, policies, wall=clock.wall, monotonic=clock.monotonic, chance=clock.chance, ticking=False
        )

    return make
