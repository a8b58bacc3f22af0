"""The n-th write or sync of the disk fails, for every n, once or from then on, and at last the power too: the law is
kept, and a restart on what the disk really has finds everything that was confirmed."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from broker.engine.sqlite.connection import BUSY_SECONDS
from tests.faults.disk import FULL, IOERR_FSYNC, IOERR_WRITE, OK, Kind, watched_disk
from tests.faults.law import check_law, check_restart, run, started, stop

REASONS = {IOERR_WRITE: "disk I/O error", IOERR_FSYNC: "disk I/O error", FULL: "database or disk is full"}


@dataclass
class Failing:
    """The `number`th action of a kind is answered with the code, and so is every later one unless it is `once`."""

    kind: Kind
    code: int
    number: int
    once: bool
    seen: int = 0

    def __call__(self, kind: Kind, path: str) -> int:
        self.seen += kind == self.kind
        fails = kind == self.kind and (self.seen == self.number or (self.seen > self.number > 0 and not self.once))
        return self.code if fails else OK


async def check_fault(folder: Path, failing: Failing) -> bool:
    """False when the course has fewer such actions."""
    with watched_disk() as disk:
        course = await started(folder)
        disk.on = failing
        await run(course)
        try:
            if failing.seen >= failing.number:
                await check_law(course, REASONS[failing.code], passed=failing.once)
        finally:
            await stop(course)
        left = folder.with_suffix(".left")
        disk.after_power_loss(course.world.folder, left, Random(failing.number))
    course.world.folder = left
    await check_restart(course, certain=False)
    return failing.seen >= failing.number


async def test_another_program_that_reads_delays_nobody(tmp_path: Path) -> None:
    """A backup holds its view of the file; the WAL cannot be emptied meanwhile, and nobody waits for that."""
    course = await started(tmp_path / "data")
    world = course.world
    await world.publish("jobs/1", "a")
    with closing(sqlite3.connect(world.folder / "postroom.db", isolation_level=None)) as backup:
        backup.execute("BEGIN")
        backup.execute("SELECT count(*) FROM chunk").fetchall()
        await world.publish("jobs/1", "b")
        async with asyncio.timeout(BUSY_SECONDS / 2):
            await world.advance(6)
            await world.publish("jobs/1", "c")
    await world.advance(6)
    assert (world.folder / "postroom.db-wal").stat().st_size == 0
    await stop(course)


FAULTS: list[tuple[Kind, int, int]] = [("write", IOERR_WRITE, 19), ("write", FULL, 19), ("sync", IOERR_FSYNC, 3)]


@pytest.mark.parametrize("once", [False, True], ids=["for good", "once"])
@pytest.mark.parametrize(("kind", "code", "stride"), FAULTS, ids=["write", "full", "sync"])
async def test_the_disk_fails(tmp_path: Path, kind: Kind, code: int, stride: int, once: bool) -> None:
    await check_all(tmp_path, kind, code, stride, once)


@pytest.mark.proof
@pytest.mark.parametrize("once", [False, True], ids=["for good", "once"])
@pytest.mark.parametrize(("kind", "code", "_"), FAULTS, ids=["write", "full", "sync"])
async def test_the_disk_fails_at_each_action(tmp_path: Path, kind: Kind, code: int, _: int, once: bool) -> None:
    await check_all(tmp_path, kind, code, 1, once)


async def check_all(folder: Path, kind: Kind, code: int, stride: int, once: bool) -> None:
    number, more = 1, True
    while more:
        try:
            more = await check_fault(folder / str(number), Failing(kind, code, number, once))
        except BaseException as error:
            error.add_note(f"{kind} {number} fails with {code}{' once' if once else ''}")
            raise
        number += stride
    assert number > 10 * stride
