"""The law, asked of an engine after a fault: failed, it says why, takes nothing and serves no one; else it is well.
A restart has everything that was confirmed."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from broker.core.errors import BrokerError, Code
from broker.core.retention import Policies
from broker.engine.base import Unit
from broker.engine.sqlite.engine import SqliteEngine
from broker.engine.sqlite.options import SqliteOptions
from tests.engine.world import Clock, World
from tests.faults.course import Course, judge, policies

OPTIONS = SqliteOptions(disk_free_limit=0, ballast=0, checkpoint_pages=100)


def make(folder: Path, clock: Clock, policies: Policies) -> SqliteEngine:
    clocks = {"wall": clock.wall, "monotonic": clock.monotonic, "chance": clock.chance}
    return SqliteEngine(folder, OPTIONS, policies, ticking=False, **clocks)


async def started(folder: Path) -> Course:
    """A course on a new folder, not begun."""
    world = World(folder, make, policies())
    await world.start()
    return Course(world)


async def run(course: Course) -> None:
    """As far as it goes. A write is refused with STORAGE_FAILED; a read fails as it does."""
    with contextlib.suppress(BrokerError, sqlite3.Error):
        async with asyncio.timeout(10):
            await course.run()


async def stop(course: Course) -> None:
    """A failed engine stops too."""
    async with asyncio.timeout(10):
        await course.world.engine.stop()


async def check_law(course: Course, reason: str, *, passed: bool) -> None:
    """`passed`: the fault is over."""
    engine = course.world.engine
    stats = engine.stats()
    assert not course.answers.waiting, "a unit was never answered"
    if stats.state == "failed":
        assert reason in stats.reason
        with pytest.raises(BrokerError) as refused:
            engine.commit(Unit())
        assert refused.value.code is Code.STORAGE_FAILED
        assert reason in refused.value.text
        handed = [len(worker.rows) for worker in course.workers]
        await engine.tick()
        assert [len(worker.rows) for worker in course.workers] == handed, "served by a failed engine"
    elif passed:
        await course.publish("jobs/8", "after all")


async def check_restart(course: Course, *, certain: bool) -> None:
    """`certain`: what was refused is known not to have been done."""
    await course.world.start()
    try:
        await judge(course, course.world, certain=certain)
    finally:
        await course.world.engine.stop()
