"""The n-th step of SQL fails, for every n: nobody is answered, the engine says why and serves no one, and a restart has
everything that was confirmed. `before`: the step does not take place; `after`: it does, and nobody can know."""

import asyncio
import contextlib
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from broker.core.errors import BrokerError, Code
from broker.core.retention import Policies
from broker.engine.base import Unit
from broker.engine.sqlite.engine import SqliteEngine
from broker.engine.sqlite.options import SqliteOptions
from tests.engine.world import Clock, World
from tests.faults.course import Course, judge, policies
from tests.faults.faulty import REASON, Faults, When, faulty_connections


def make(folder: Path, clock: Clock, policies: Policies) -> SqliteEngine:
    options = SqliteOptions(disk_free_limit=0, ballast=0)
    clocks = {"wall": clock.wall, "monotonic": clock.monotonic, "chance": clock.chance}
    return SqliteEngine(folder, options, policies, ticking=False, **clocks)


async def run(folder: Path, faults: Faults) -> Course:
    """The course on a new folder, with faults from the start of it on; then stopped, as far as that goes."""
    with faulty_connections(faults):
        world = World(folder, make, policies())
        await world.start()
        course = Course(world)
        faults.armed = True
        # A write is refused with STORAGE_FAILED; a read fails as it does.
        with contextlib.suppress(BrokerError, sqlite3.Error):
            async with asyncio.timeout(10):
                await course.run()
        return course


async def check_fault(folder: Path, faults: Faults) -> None:
    course = await run(folder, faults)
    try:
        if faults.hit:
            await check_law(course, faults)
    finally:
        async with asyncio.timeout(10):
            await course.world.engine.stop()
    assert faults.hit, "the course is shorter than it was"
    await check_restart(course, faults)


async def check_restart(course: Course, faults: Faults) -> None:
    faults.armed = False
    await course.world.start()
    try:
        await judge(course, course.world, certain=faults.when == "before")
    finally:
        await course.world.engine.stop()


async def check_law(course: Course, faults: Faults) -> None:
    """Failed, it says why and takes nothing; if it goes on (a read failed, and passed), it is well."""
    engine = course.world.engine
    stats = engine.stats()
    assert not course.answers.waiting, "a unit was never answered"
    if stats.state == "failed":
        assert REASON in stats.reason
        with pytest.raises(BrokerError, match="a fault on purpose") as refused:
            engine.commit(Unit())
        assert refused.value.code is Code.STORAGE_FAILED
        handed = [len(worker.rows) for worker in course.workers]
        with contextlib.suppress(BrokerError, sqlite3.Error):
            await engine.tick()
        assert [len(worker.rows) for worker in course.workers] == handed, "served by a failed engine"
    elif faults.passing:
        await course.publish("jobs/8", "after all")


async def length(folder: Path) -> int:
    """How many steps the course takes without a fault."""
    faults = Faults()
    course = await run(folder, faults)
    await course.world.engine.stop()
    assert len(course.answers.confirmed) >= 19
    assert not course.answers.refused
    return len(faults.statements)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("passing", [False, True], ids=["for good", "once"])
async def test_a_step_fails(tmp_path: Path, when: When, passing: bool) -> None:
    await steps(tmp_path, when, passing, stride=7)


@pytest.mark.proof
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("passing", [False, True], ids=["for good", "once"])
async def test_each_step_fails(tmp_path: Path, when: When, passing: bool) -> None:
    await steps(tmp_path, when, passing, stride=1)


async def steps(folder: Path, when: When, passing: bool, stride: int) -> None:
    count = await length(folder / "whole")
    for step in range(1, count + 1, stride):
        faults = Faults(step, when, passing)
        try:
            await check_fault(folder / str(step), faults)
        except BaseException as error:
            error.add_note(f"step {step} of {count}, {when}: {faults.statements[step - 1 : step]}")
            raise


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_step_of_the_start_fails(tmp_path: Path, when: When) -> None:
    """The start is refused, leaves nothing running, and can be tried again."""
    course = await run(tmp_path / "whole", Faults())
    crashed = course.world.copy()
    await course.world.engine.stop()
    step = 0
    while True:
        step += 1
        world = course.world = World(tmp_path / str(step), make, policies(), course.world.clock)
        shutil.copytree(crashed, world.folder)
        faults = Faults(step, when, armed=True)
        with faulty_connections(faults):
            refusal = await start(world)
        if refusal is None:
            await world.engine.stop()
            break
        assert REASON in str(refusal), f"step {step}: {faults.statements}"
        assert threads_end(), f"step {step}: {faults.statements}"
        await check_restart(course, faults)
    assert step > 10


async def start(world: World) -> BrokerError | None:
    try:
        await world.start()
    except BrokerError as error:
        return error
    return None


def threads_end() -> bool:
    """Do all threads but this one end by themselves, as they must for the process to end?"""
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    for thread in others:
        thread.join(5)
    return not any(thread.is_alive() for thread in others)
