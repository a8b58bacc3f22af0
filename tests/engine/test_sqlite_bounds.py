"""What is remembered for speed is bounded, whatever clients name."""

import pytest

from broker.engine.sqlite import log, matchers
from broker.engine.sqlite.engine import SqliteEngine
from tests.engine.conformance import world
from tests.engine.test_sqlite_conformance import engine_factory
from tests.engine.world import World

__all__ = ["engine_factory", "world"]


async def test_reply_topics_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine
    assert isinstance(engine, SqliteEngine)
    monkeypatch.setattr(log, "MAX_PASSING", 10)
    tap = world.tap(["$reply/#"])
    await world.publish("stays", "x")
    for i in range(25):
        await world.publish(f"$reply/{i}", str(i))
        await world.publish(f"$reply/{i}", "again")
    assert len(await tap.take(50)) == 50
    assert len(engine.log.numbers) <= 11
    assert engine.log.numbers["stays"] > 0
    assert (await world.log(), await world.log("$reply/#")) == (["x"], [])


async def test_answers_about_topics_are_bounded_over_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matchers, "MAX_ANSWERS", 100)
    monkeypatch.setattr(matchers, "MAX_SETS", 30)
    kept = matchers.Matchers()
    most = 0
    for i in range(1_000):
        found = kept.of([f"a/{i % 5}", "b/#"])
        assert (found[f"a/{i % 5}"], found["b/x"], found[f"a/{i}/x"]) == (True, True, False)
        most = max(most, sum(map(len, kept._sets.values())))
    assert 90 < most <= 103
    for i in range(100):
        assert kept.of([f"{i}"])[str(i)]
        assert len(kept._sets) <= 30
    assert kept.of(["x", "y"]) is kept.of(("x", "y"))
