"""Taking messages out of the log while it is written and read: directories, rows and memory keep in step."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap64

from broker.core.offsets import PAGE_SIZE
from broker.core.retention import Policies
from broker.engine.base import Unit
from broker.engine.sqlite import pruning
from broker.engine.sqlite.engine import SqliteEngine
from broker.engine.sqlite.forming import InternalUnit
from broker.engine.sqlite.removal import remove
from tests.engine.conformance import world
from tests.engine.test_sqlite_conformance import engine_factory
from tests.engine.world import EngineFactory, World, open_world

__all__ = ["engine_factory", "world"]


async def fill(world: World, topic: str, until: int) -> None:
    """Publish until the next offset is this one."""
    while count := min(until - world.engine.stats().next_offset, 20_000):
        await world.commit(Unit([(topic, None, b"x")] * count))


def begin_removal(world: World, topic: str, offsets: range) -> "list[asyncio.Task[None]]":
    engine = world.engine
    assert isinstance(engine, SqliteEngine)
    pieces = [list(offsets[i : i + 1_000]) for i in range(0, len(offsets), 1_000)]
    return [asyncio.create_task(remove(engine, {engine.log.numbers[topic]: piece}, InternalUnit())) for piece in pieces]


@pytest.mark.parametrize("turns", range(6))
async def test_a_page_is_emptied_in_the_moment_it_is_sealed(world: World, turns: int) -> None:
    await fill(world, "a", PAGE_SIZE)
    await fill(world, "a", PAGE_SIZE)
    sealing = world.answer(Unit([world.draft("a", "y")]))
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.gather(*begin_removal(world, "a", range(1, PAGE_SIZE)))
    assert (await sealing).error is None
    for _ in range(2):
        assert world.engine.stats().state == "running"
        assert await world.log() == ["y"]
        assert [(info.messages, info.bytes) for info in world.engine.topics()] == [(1, 1)]
        await world.restart()


@pytest.mark.parametrize("turns", range(6))
async def test_a_reader_of_another_topic_never_sees_what_is_being_removed(world: World, turns: int) -> None:
    await world.publish("old", *"12345")
    await world.publish("mine", "m")
    await world.restart()
    removals = begin_removal(world, "old", range(1, 6))
    for _ in range(turns):
        await asyncio.sleep(0)
    assert await world.log("mine") == ["m"]
    await asyncio.gather(*removals)
    assert await world.log("#") == ["m"]


async def test_a_directory_that_was_read_before_a_removal_does_not_come_back_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(world, "a", PAGE_SIZE + 2)
    await world.publish("a", "x")  # its commit seals the page
    engine = world.engine
    assert isinstance(engine, SqliteEngine)
    assert 0 in engine.log.pages
    run, committed, was_read, goes_on = engine.reader.run, engine.committed_unit, asyncio.Event(), asyncio.Event()

    async def held(work: Any) -> Any:
        found = await run(work)
        was_read.set()
        await goes_on.wait()
        return found

    async def evicted(unit: Unit) -> Any:
        engine.log._decoded.clear()  # as by readers of many other pages
        return await committed(unit)

    engine.log._decoded.clear()
    with monkeypatch.context() as patched:
        patched.setattr(engine.reader, "run", held)
        reading = asyncio.create_task(engine.replay.directory(0))
        await was_read.wait()
    monkeypatch.setattr(engine, "committed_unit", evicted)
    await remove(engine, {engine.log.numbers["a"]: list(range(1, 1_001))}, InternalUnit())
    goes_on.set()
    directory = await reading
    assert directory is not None
    assert directory.count(engine.log.numbers["a"]) == PAGE_SIZE - 1 - 1_000


async def test_what_a_queue_comes_to_want_while_retention_works_stays(
    tmp_path: Path, engine_factory: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PIECE", 1_000)
    async with open_world(tmp_path / "data", engine_factory, Policies.parse({"few": {"count": 1}})) as world:
        await world.publish("few", *map(str, range(4_000)))
        world.clock.move(20)
        tick = asyncio.create_task(world.engine.tick())
        while len(await world.log()) == 4_000:  # noqa: ASYNC110 - there is no event for a half done removal
            await asyncio.sleep(0)
        await world.subscribe("q", "few", **{"from": "earliest"})
        wanted = world.info().ready
        assert wanted > 1
        await tick
        assert len(await world.log()) == wanted


async def test_old_messages_are_found_behind_pages_that_stay(tmp_path: Path, engine_factory: EngineFactory) -> None:
    policies = Policies.parse({"keep": {"age": "forever"}, "young": {"age": "60s"}})
    async with open_world(tmp_path / "data", engine_factory, policies) as world:
        await fill(world, "keep", 2 * PAGE_SIZE)
        await world.publish("young", "y")
        world.clock.move(100)
        for _ in range(6):
            await world.advance(10)
        assert await world.log("young") == []
        assert len(await world.log("keep")) == 2 * PAGE_SIZE - 1


async def test_retention_reads_large_headers_in_pieces(tmp_path: Path, engine_factory: EngineFactory) -> None:
    policies = Policies.parse({"a": {"latest": True}})
    async with open_world(tmp_path / "large", engine_factory, policies) as world:
        draft = world.draft("a", "x", headers={"h": "x" * 2_000})
        for _ in range(10):
            await world.commit(Unit([draft] * 2_000))
        assert isinstance(world.engine, SqliteEngine)
        # A page of the largest headers passes SQLite's gigabyte; here the bound is as much smaller as the page is.
        await world.engine.reader.run(lambda db: db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000_000))
        await world.advance(10)
        assert world.engine.stats().state == "running"
        assert len(await world.log("a")) == 1


async def test_retention_gives_way_to_other_upkeep(
    tmp_path: Path, engine_factory: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PIECE", 10)
    async with open_world(tmp_path / "slow", engine_factory, Policies.parse({"a": {"count": 1}})) as world:

        async def slowly(*asked: Any) -> None:
            await remove(*asked)
            world.clock.monotonic_seconds += pruning.STEP_SECONDS / 2

        monkeypatch.setattr(pruning, "remove", slowly)
        await world.publish("a", *map(str, range(101)))
        await world.advance(10)
        assert len(await world.log("a")) == 81
        await world.advance(0.2)
        assert len(await world.log("a")) == 61


def test_a_piece_takes_from_so_many_chunks_only() -> None:
    close, apart = BitMap64(range(1, 10_000)), BitMap64(range(1, 640_000, 64))
    assert pruning.piece_of(close) == list(range(1, pruning.PIECE + 1))
    assert pruning.piece_of(apart) == list(range(1, 64 * pruning.MAX_CHUNKS, 64))
    assert pruning.piece_of(BitMap64([7])) == [7]


async def test_old_messages_of_many_topics_go_together(tmp_path: Path, engine_factory: EngineFactory) -> None:
    """A commit for each topic would be slower than who publishes to them."""
    policies = Policies.parse({"old/#": {"age": "60s"}, "older/#": {"age": "90s"}, "kept/#": {"age": "forever"}})
    async with open_world(tmp_path / "data", engine_factory, policies) as world:
        await world.subscribe("q", "old/7")
        names = [f"{kind}/{i}" for i in range(1_000) for kind in ("old", "older", "kept")]
        await world.commit(Unit([world.draft(name, name) for name in names]))
        world.clock.move(61)
        await world.publish("old/7", "young")
        before = world.engine.stats().commits
        await world.advance(10)
        assert await world.log("old/#") == ["old/7", "young"]
        assert len(await world.log("older/#")) == len(await world.log("kept/#")) == 1_000
        await world.advance(30)
        assert await world.log("old/#") == ["old/7", "young"]
        assert await world.log("older/#") == []
        assert world.engine.stats().commits - before < 10
        await world.restart()
        assert (await world.log("old/#"), len(await world.log("#"))) == (["old/7", "young"], 1_002)
        assert {info.name: info.messages for info in world.engine.topics()}["old/7"] == 2


async def test_retention_that_finds_nothing_to_remove_gives_way_and_goes_on_where_it_was(
    tmp_path: Path, engine_factory: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "MAX_TOPICS", 1)
    async with open_world(tmp_path / "data", engine_factory, Policies.parse({"#": {"count": 1}})) as world:
        engine = world.engine
        assert isinstance(engine, SqliteEngine)
        await world.subscribe("q", "pinned/#")
        for topic in (*(f"pinned/{i}" for i in range(5)), "z"):
            await world.publish(topic, "1", "2", "3")
        look = engine.replay.directory

        async def slowly(page: int) -> Any:
            world.clock.monotonic_seconds += pruning.STEP_SECONDS
            return await look(page)

        monkeypatch.setattr(engine.replay, "directory", slowly)
        for _ in range(5):
            await world.advance(10)
            monkeypatch.setattr(engine.replay, "directory", look)
            assert await world.log("z") == ["1", "2", "3"]
            monkeypatch.setattr(engine.replay, "directory", slowly)
        await world.advance(10)
        monkeypatch.setattr(engine.replay, "directory", look)
        assert await world.log("z") == ["3"]
        assert len(await world.log("pinned/#")) == 15
