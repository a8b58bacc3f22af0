"""Reads of the log for a queue's consumers: how much is read, how often, and what a failing read leaves behind."""

import sqlite3
from collections.abc import Sequence

import pytest

from broker.core.message import Row
from broker.engine.sqlite import handles
from broker.engine.sqlite.engine import SqliteEngine
from tests.engine.conformance import world
from tests.engine.test_sqlite_conformance import engine_factory
from tests.engine.world import World

__all__ = ["engine_factory", "world"]


class Reads:
    """Writes down the sizes of all reads; the next one fails when `broken`."""

    def __init__(self, engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.broken = False
        self._fetch = engine.fetch_within
        monkeypatch.setattr(engine, "fetch_within", self.fetch_within)

    async def fetch_within(self, offsets: Sequence[int], size: int) -> tuple[list[Row], int]:
        if self.broken:
            raise sqlite3.OperationalError("disk I/O error")
        rows, count = await self._fetch(offsets, size)
        self.sizes.append(sum(len(row[4]) for row in rows))
        return rows, count


async def reads_of(world: World, monkeypatch: pytest.MonkeyPatch) -> Reads:
    """After a restart nothing is in memory."""
    await world.restart()
    assert isinstance(world.engine, SqliteEngine)
    return Reads(world.engine, monkeypatch)


async def test_who_has_no_room_for_the_next_message_is_not_read_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.subscribe("q", "jobs")
    await world.publish("jobs", *[b"x" * 100] * 9)
    reads = await reads_of(world, monkeypatch)
    worker = world.attach("q", 100, 250)
    for _ in range(20):
        await world.quiet()
    assert len(worker.rows) == 2
    assert len(reads.sizes) == 1
    worker.tie.grant(0, 50)
    await world.quiet()
    assert len(worker.rows) == 3
    worker.ack(worker.rows)
    worker.tie.grant(0, 100)
    await world.quiet()
    assert len(worker.rows) == 4


async def test_large_bodies_after_small_ones_are_read_by_their_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of handing out: the first of a pick, not its lowest offsets."""
    monkeypatch.setattr(handles, "PICK_BYTES", 20_000)
    await world.subscribe("q", "jobs")
    await world.publish("jobs", *map(str, range(500)))
    for n in range(50):
        await world.publish("jobs", f"{n:02}" + "x" * 5_000, priority=n % 2)
    reads = await reads_of(world, monkeypatch)
    worker = world.attach("q")
    bodies = await worker.bodies(550)
    assert max(reads.sizes) <= 20_000
    assert [int(body[:2]) for body in bodies[:25]] == list(range(1, 50, 2))
    assert bodies[25:525] == list(map(str, range(500)))
    assert [int(body[:2]) for body in bodies[525:]] == list(range(0, 50, 2))


async def test_a_read_that_fails_costs_no_attempt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.subscribe("q", "jobs")
    await world.publish("jobs", "1", "2", "3")
    reads = await reads_of(world, monkeypatch)
    reads.broken = True
    worker = world.attach("q", 2)
    await world.quiet()
    assert (world.info().ready, world.info().leased) == (3, 0)
    reads.broken = False
    worker.tie.grant(1, 100)
    assert await worker.bodies(3) == ["1", "2", "3"]
    assert worker.attempts_of(worker.rows[0][0]) == (0, 0)
