"""The n-th step of SQL fails, for every n: nobody is answered, the engine says why and serves no one, and a restart has
everything that was confirmed. `before`: the step does not take place; `after`: it does, and nobody can know."""

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from broker.core.errors import BrokerError, Code
from broker.engine.base import Unit
from broker.engine.sqlite.engine import SqliteEngine
from tests.engine.world import World
from tests.faults.course import policies
from tests.faults.faulty import REASON, Faults, When, faulty_connections
from tests.faults.law import check_law, check_restart, make, run, started, stop
from tests.system.waiting import until


async def check_fault(folder: Path, faults: Faults) -> None:
    with faulty_connections(faults):
        course = await started(folder)
    faults.armed = True
    await run(course)
    try:
        if faults.hit:
            await check_law(course, REASON, passed=faults.passing)
    finally:
        await stop(course)
    assert faults.hit, "the course is shorter than it was"
    await check_restart(course, certain=faults.when == "before")


async def length(folder: Path) -> int:
    """How many steps the course takes without a fault."""
    faults = Faults(armed=True)
    with faulty_connections(faults):
        course = await started(folder)
    faults.statements.clear()
    await run(course)
    await stop(course)
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


@pytest.mark.parametrize("how", ["the commit that takes it", "something else"])
async def test_who_waits_for_room_in_a_queue_is_refused_when_the_disk_fails(tmp_path: Path, how: str) -> None:
    faults = Faults(step=1)
    with faulty_connections(faults):
        course = await started(tmp_path / "data")
    world, engine = course.world, course.world.engine
    assert isinstance(engine, SqliteEngine)
    await world.subscribe("q", "jobs/#", overflow="block", max_messages=1)
    await world.publish("jobs/1", "a")
    answers = [world.answer(Unit([world.draft("jobs/1", body)], sender=sender)) for body, sender in ("bp", "cp", "dr")]
    await world.quiet()
    assert not any(answer.done() for answer in answers)
    worker = world.attach("q", 1)
    rows = await worker.take(1)
    faults.armed = True
    if how == "something else":
        engine.fail(OSError(REASON))
    else:
        worker.ack(rows)
    receipts = await asyncio.wait_for(asyncio.gather(*answers), 5)
    assert [receipt.error and receipt.error.code for receipt in receipts] == [Code.STORAGE_FAILED] * 3
    await stop(course)


async def test_a_read_for_a_worker_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Said in the log; what could not be read is handed out later, and counts no attempt."""
    course = await started(tmp_path / "data")
    world = course.world
    await world.subscribe("q", "jobs/#")
    await world.publish("jobs/1", "a", "b")
    await stop(course)
    faults = Faults(step=1, passing=True)
    with faulty_connections(faults):
        await world.start()
    faults.armed = True
    worker = world.attach("q")
    try:
        await until(lambda: "a read of the log failed; it is tried again when something happens" in caplog.messages)
        assert worker.rows == []
        await world.publish("jobs/1", "c")
        assert await worker.bodies(3) == ["a", "b", "c"]
        assert worker.attempts_of(1) == (0, 0)
    finally:
        await stop(course)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_step_of_the_start_fails(tmp_path: Path, when: When) -> None:
    """The start is refused, leaves nothing running, and can be tried again."""
    course = await started(tmp_path / "whole")
    await run(course)
    crashed = course.world.copy()
    await stop(course)
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
        await check_restart(course, certain=True)
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
