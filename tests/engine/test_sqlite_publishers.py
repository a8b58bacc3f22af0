"""Publishers are remembered for long, and not for ever."""

from pathlib import Path

from broker.core.retention import Policies
from broker.engine.base import Sequences, Unit
from broker.engine.sqlite.engine import SqliteEngine
from tests.engine.test_sqlite_conformance import OPTIONS
from tests.engine.world import Clock, World, open_world


def few(folder: Path, clock: Clock, policies: Policies) -> SqliteEngine:
    options = OPTIONS.model_copy(update={"publishers_max": 3})
    return SqliteEngine(
        folder, options, policies, wall=clock.wall, monotonic=clock.monotonic, chance=clock.chance, ticking=False
    )


async def publish(world: World, *names: str) -> None:
    for name in names:
        last, _ = world.engine.publisher(name)
        await world.commit(Unit([world.draft("a", name)], publisher=Sequences(name, last + 1, last + 1)))


def known(world: World) -> list[str]:
    return [name for name in ("old", "idle", "busy", "new-1", "new-2", "new-3") if world.engine.publisher(name)[0]]


async def test_when_there_are_too_many_the_longest_silent_go(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", few) as world:
        await publish(world, "old")
        await world.advance(10)
        await publish(world, "idle", "busy")
        await world.advance(4_000)
        await publish(world, "busy", "new-1")
        await world.advance(700)
        assert known(world) == ["idle", "busy", "new-1"]
        await publish(world, "new-2", "new-3")
        await world.advance(700)
        assert known(world) == ["busy", "new-1", "new-2", "new-3"]  # over the limit, but not silent for long
        await world.restart()
        assert known(world) == ["busy", "new-1", "new-2", "new-3"]


async def test_who_was_silent_for_a_month_begins_anew(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", few) as world:
        await publish(world, "old")
        await world.advance(29 * 86_400)
        assert known(world) == ["old"]
        await world.advance(2 * 86_400)
        assert known(world) == []
