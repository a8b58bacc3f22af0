"""The conformance suite: the promises of `broker/engine/base.py`, asked of an engine through that seam alone.

An engine takes it by a test module that imports everything from here and has a fixture `engine_factory` of session
scope (an `EngineFactory`, see `tests.engine.world`). What its `capabilities` deny is not asked.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.promises.blocking import TestBlock
from tests.engine.promises.commit import TestCommit, TestIdempotence, TestKeyValue, TestPoison, TestPublisher
from tests.engine.promises.order import TestAnyCourse, TestFairShare, TestKeysInOrder, TestPriority
from tests.engine.promises.queue import (
    TestCaps,
    TestCare,
    TestFailures,
    TestHandingOut,
    TestLeases,
    TestSettling,
    TestSingleActive,
    TestTimeToLive,
)
from tests.engine.promises.schedule import TestSchedule
from tests.engine.promises.stream import (
    TestCursor,
    TestFollow,
    TestPassing,
    TestRead,
    TestRefusals,
    TestRetention,
    TestTap,
)
from tests.engine.world import EngineFactory, World, open_world

__all__ = [
    "TestAnyCourse",
    "TestBlock",
    "TestCaps",
    "TestCare",
    "TestCommit",
    "TestCursor",
    "TestFailures",
    "TestFairShare",
    "TestFollow",
    "TestHandingOut",
    "TestIdempotence",
    "TestKeyValue",
    "TestKeysInOrder",
    "TestLeases",
    "TestPassing",
    "TestPoison",
    "TestPriority",
    "TestPublisher",
    "TestRead",
    "TestRefusals",
    "TestRetention",
    "TestSchedule",
    "TestSettling",
    "TestSingleActive",
    "TestTap",
    "TestTimeToLive",
    "world",
]


@pytest.fixture
async def world(tmp_path: Path, engine_factory: EngineFactory) -> AsyncIterator[World]:
    """A started engine on a fresh folder."""
    async with open_world(tmp_path / "data", engine_factory) as opened:
        yield opened
