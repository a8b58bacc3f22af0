"""The power fails: what was synced is there, of the rest anything may be. Everything confirmed by then is recovered.

At many moments of a course (before each n-th write, sync, truncation or deletion of SQLite's) one of the states that a
power failure could leave behind is taken, with the answers given so far; later each is opened and judged.
"""

import copy
from pathlib import Path
from random import Random

import pytest

from tests.engine.world import World
from tests.faults.course import Answers, Course, policies
from tests.faults.disk import OK, Kept, Kind, apply, watched_disk
from tests.faults.law import check_restart, make


async def failures(folder: Path, seed: int, stride: int) -> tuple[Course, list[tuple[Path, Answers]]]:
    """Run the course to its end and stop; what the power failures on the way left, and the answers by then."""
    random, left = Random(seed), list[tuple[Path, Answers]]()
    world = World(folder / "data", make, policies())
    course = Course(world)
    with watched_disk() as disk:

        def fail(kind: Kind, path: str) -> int:
            if disk.actions % stride == 0:
                target = folder / f"{disk.actions} {kind} {Path(path).name}"
                disk.after_power_loss(world.folder, target, random)
                left.append((target, copy.deepcopy(course.answers)))
            return OK

        disk.on = fail
        await world.start()
        await course.run()
        await world.engine.stop()
    assert not course.answers.refused
    return course, left


async def check(folder: Path, seed: int, stride: int) -> None:
    course, left = await failures(folder, seed, stride)
    assert len(left) > 20
    for target, answers in left:
        course.answers = answers
        course.world = World(target, make, policies(), copy.copy(course.world.clock))
        try:
            await check_restart(course, certain=True)
        except BaseException as error:
            error.add_note(f"seed {seed}, power lost before action {target.name}")
            raise


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_power_fails(tmp_path: Path, seed: int) -> None:
    await check(tmp_path, seed, stride=7)


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(10))
async def test_the_power_fails_at_each_action(tmp_path: Path, seed: int) -> None:
    await check(tmp_path, seed, stride=1)


@pytest.mark.parametrize("text", ["", "\0\0\0\0"])
async def test_a_watermark_that_lost_its_text_begins_no_new_epoch(tmp_path: Path, text: str) -> None:
    """File systems may keep the name of a file and lose what was written last."""
    world = World(tmp_path / "data", make, policies())
    await world.start()
    await world.publish("jobs/1", "a")
    epoch, left = world.engine.epoch, world.copy()
    await world.engine.stop()
    (left / "watermark").write_text(text)
    world.folder = left
    await world.start()
    assert world.engine.epoch == epoch
    await world.engine.stop()


def test_a_disk_forgets_what_was_not_synced() -> None:
    kept = Kept(b"", [(0, b"abcd"), (2, b"XY"), (6, b"z")])
    assert apply(kept.synced, kept.pending) == b"abXY\0\0z"
    assert {kept.after_power_loss(Random(i)) for i in range(200)} >= {b"", b"abcd", b"abXY", b"abXY\0\0z", b"abcd\0\0z"}
    kept.sync()
    kept.pending.append((3, None))
    assert {kept.after_power_loss(Random(i)) for i in range(200)} == {b"abXY\0\0z", b"abX"}
