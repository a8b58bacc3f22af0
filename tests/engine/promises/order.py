"""In which order a queue hands out: priority, keys one after the other, keys in turn; each over the whole backlog."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.message import Row, unpack_meta
from broker.core.subscription import Delivery, Outcome
from broker.engine.base import Unit
from tests.engine.world import EngineFactory, Worker, World, open_world

BACKLOG = 20_000
FULL = 1_000_000
SIZES = [BACKLOG, pytest.param(FULL, marks=pytest.mark.proof)]


async def pile(world: World, count: int, options: Callable[[int], dict[str, Any]] | None = None) -> None:
    """Publish `count` messages with their number as body."""
    for start in range(0, count, 20_000):
        numbers = range(start, min(start + 20_000, count))
        await world.commit(Unit([world.draft("jobs", str(n), **(options(n) if options else {})) for n in numbers]))


class TestPriority:
    async def test_the_highest_goes_first_and_equals_in_their_order(self, world: World) -> None:
        await world.subscribe("q", "jobs")
        numbers = list(range(300))
        priorities = {n: random.Random(n).randrange(10) for n in numbers}
        for n in numbers:
            await world.publish("jobs", str(n), priority=priorities[n])
        expected = [str(n) for n in sorted(numbers, key=lambda n: (-priorities[n], n))]
        for _ in range(2):
            worker = world.attach("q")
            assert await worker.bodies(300) == expected
            await world.restart()

    @pytest.mark.parametrize("size", SIZES)
    async def test_a_high_one_goes_next_after_any_backlog(self, world: World, size: int) -> None:
        worker = await world.queue("jobs", messages=1)
        await pile(world, size)
        worker.ack(await worker.take(1))
        await world.publish("jobs", "high", priority=9)
        worker.tie.grant(1, 100)
        assert await worker.bodies(1) == ["high"]
        worker.tie.grant(1, 100)
        assert await worker.bodies(1) == ["1"]

    async def test_a_retried_one_keeps_its_priority(self, world: World) -> None:
        worker = await world.queue("jobs", messages=1)
        await world.publish("jobs", "high", priority=5)
        await world.publish("jobs", "low", "low")
        worker.settle(Outcome.RETRY, await worker.take(1), delay=0)
        worker.tie.grant(1, 100)
        assert await worker.bodies(1) == ["high"]


class TestKeysInOrder:
    async def test_one_key_goes_one_after_the_other_and_keys_beside_one_another(self, world: World) -> None:
        worker = await world.queue("jobs", ordered=True)
        for body in ("a1", "a2", "b1", "a3", "b2", "c1"):
            await world.publish("jobs", body, key=body[0])
        first = await worker.take(3)
        await world.quiet()
        assert [row[4] for row in first] == [b"a1", b"b1", b"c1"]
        assert worker.waiting == []
        assert world.info().blocked == 3
        worker.ack(first[:1])
        assert await worker.bodies(1) == ["a2"]
        worker.ack(first[1:])
        assert await worker.bodies(1) == ["b2"]

    async def test_messages_without_a_key_are_free(self, world: World) -> None:
        worker = await world.queue("jobs", ordered=True)
        await world.publish("jobs", "1", "2", "3")
        assert await worker.bodies(3) == ["1", "2", "3"]

    async def test_the_head_blocks_its_key_through_retry_and_release(self, world: World) -> None:
        worker = await world.queue("jobs", ordered=True)
        await world.publish("jobs", "a1", "a2", key="a")
        worker.settle(Outcome.RETRY, await worker.take(1), delay=10_000)
        await world.advance(5)
        assert worker.waiting == []
        await world.advance(6)
        worker.settle(Outcome.RELEASE, await worker.take(1))
        rows = await worker.take(1)
        assert rows[0][4] == b"a1"
        worker.ack(rows)
        assert await worker.bodies(1) == ["a2"]

    async def test_the_head_blocks_its_key_when_its_lease_runs_out(self, world: World) -> None:
        worker = await world.queue("jobs", ordered=True, lease="30s", retry={"initial": "10s", "jitter": 0})
        await world.publish("jobs", "a1", "a2", key="a")
        await worker.take(1)
        await world.advance(31)
        assert worker.waiting == []
        await world.advance(11)
        assert await worker.bodies(1) == ["a1"]

    async def test_a_rejected_head_frees_its_key(self, world: World) -> None:
        worker = await world.queue("jobs", ordered=True)
        await world.publish("jobs", "a1", "a2", key="a")
        worker.settle(Outcome.REJECT, await worker.take(1))
        assert await worker.bodies(1) == ["a2"]

    async def test_an_expired_head_frees_its_key(self, world: World) -> None:
        await world.subscribe("q", "jobs", ordered=True)
        await world.publish("jobs", "a1", key="a", ttl=1_000)
        await world.publish("jobs", "a2", key="a")
        await world.advance(3)
        assert await world.attach("q").bodies(1) == ["a2"]

    async def test_a_leaving_worker_gives_the_head_back_first(self, world: World) -> None:
        worker = await world.queue("jobs", ordered=True)
        await world.publish("jobs", "a1", "a2", key="a")
        await worker.take(1)
        worker.tie.detach()
        other = world.attach("q")
        assert await other.bodies(1) == ["a1"]
        await world.quiet()
        assert other.waiting == []

    async def test_order_and_blocks_survive_a_crash(self, world: World) -> None:
        worker = await world.queue("jobs", ordered=True)
        for body in ("a1", "b1", "a2", "b2", "a3"):
            await world.publish("jobs", body, key=body[0])
        a1, b1 = await worker.take(2)
        worker.settle(Outcome.RETRY, [a1], delay=60_000)
        worker.ack([b1])
        await world.quiet()
        await world.crash()
        worker = world.attach("q")
        assert await worker.bodies(1) == ["b2"]
        await world.quiet()
        assert worker.waiting == []
        await world.advance(61)
        assert await worker.bodies(1) == ["a1"]
        worker.ack(worker.rows)
        assert await worker.bodies(1) == ["a2"]

    @pytest.mark.parametrize("size", SIZES)
    async def test_a_busy_key_does_not_delay_the_next(self, world: World, size: int) -> None:
        worker = await world.queue("jobs", messages=5, ordered=True)
        await pile(world, size, lambda _: {"key": "busy"})
        await world.publish("jobs", "next", key="other")
        assert sorted(await worker.bodies(2)) == ["0", "next"]
        await world.restart()
        worker = world.attach("q", 5)
        assert sorted(await worker.bodies(2)) == ["0", "next"]

    async def test_many_keys_deep(self, world: World) -> None:
        worker = await world.queue("jobs", messages=50, ordered=True)
        await pile(world, 5_000, lambda n: {"key": str(n % 100)})
        done: dict[int, list[int]] = {}
        for _ in range(5_000):
            [row] = await worker.take(1)
            done.setdefault(int(row[4]) % 100, []).append(int(row[4]))
            worker.ack([row])
            worker.tie.grant(1, 100)
        assert all(numbers == sorted(numbers) and len(numbers) == 50 for numbers in done.values())


class TestFairShare:
    @pytest.mark.parametrize("size", SIZES)
    async def test_a_busy_tenant_does_not_delay_the_others(self, world: World, size: int) -> None:
        worker = await world.queue("jobs", messages=1, fair=True)
        await pile(world, size, lambda _: {"key": "busy"})
        await world.publish("jobs", "b", key="modest")
        await world.publish("jobs", "c", key="humble")
        await worker.take(1)
        worker.tie.grant(4, 1_000)
        assert {"b", "c"} <= set(await worker.bodies(4))

    async def test_tenants_take_turns(self, world: World) -> None:
        await world.subscribe("q", "jobs", fair=True)
        for key, count in (("a", 30), ("b", 20), ("c", 10)):
            await world.publish("jobs", *[f"{key}{n}" for n in range(count)], key=key)
        bodies = await world.attach("q").bodies(60)
        assert {body[0] for body in bodies[:3]} == {"a", "b", "c"}
        assert sorted(body[0] for body in bodies[:30]) == ["a"] * 10 + ["b"] * 10 + ["c"] * 10
        for key in "abc":
            mine = [int(body[1:]) for body in bodies if body[0] == key]
            assert mine == sorted(mine)

    async def test_fair_and_ordered_together(self, world: World) -> None:
        worker = await world.queue("jobs", messages=10, fair=True, ordered=True)
        await pile(world, 300, lambda n: {"key": "a" if n < 280 else "b"})
        rows = await worker.take(2)
        await world.quiet()
        assert sorted(int(row[4]) for row in rows) == [0, 280]
        assert worker.waiting == []
        worker.ack(rows)
        assert sorted(await worker.bodies(2)) == ["1", "281"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.sampled_from(["ack", "retry", "retry now", "release", "reject"]), st.integers(0, 9)),
        st.tuples(st.just("attach")),
        st.tuples(st.just("detach"), st.integers(0, 9)),
        st.tuples(st.just("grant"), st.integers(0, 9)),
        st.tuples(st.just("advance"), st.sampled_from([0.5, 6.0, 31.0])),
        st.tuples(st.just("restart")),
    ),
    min_size=5,
    max_size=50,
)


class Model:
    """What an ordered queue must keep true, whatever happens: never two of one key in hand, never one before an
    earlier one of its key is done with, never one that is done with."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.workers: list[Worker] = []
        self.held: dict[int, tuple[Worker, Row, float]] = {}
        self.open: dict[str, list[int]] = {}
        self.number = 0
        self.faults: list[str] = []

    def attach(self) -> None:
        worker = self.world.attach("q", 0)
        worker.on_deliver = lambda delivery: self.note(worker, delivery)
        self.workers.append(worker)
        worker.tie.grant(3, 1_000)

    def note(self, worker: Worker, delivery: Delivery) -> None:
        """Keep what is wrong with a delivery for the next step: an engine lets no consumer's exception through."""
        now = self.world.clock.monotonic_seconds
        for row in delivery.rows:
            mine = self.open[unpack_meta(row[3])["key"]]
            if row[0] not in mine:
                self.faults.append(f"{row[4]!r} was settled and comes again")
            elif row[0] != mine[0]:
                self.faults.append(f"{row[4]!r} comes before an earlier one of its key")
            elif row[0] in self.held and self.held[row[0]][2] > now:
                self.faults.append(f"{row[4]!r} is in hand and comes again")
            self.held[row[0]] = (worker, row, now + 30)

    async def step(self, step: tuple[Any, ...]) -> None:
        name = step[0]
        if name == "publish":
            await self.publish(f"k{step[1]}", step[2] + 1)
        elif name == "attach":
            self.attach()
        elif name == "advance":
            await self.world.advance(step[1])
        elif name == "restart":
            await self.restart()
        elif name in ("grant", "detach") and self.workers:
            worker = self.workers[step[1] % len(self.workers)]
            if name == "grant":
                worker.tie.grant(2, 1_000)
            else:
                self.workers.remove(worker)
                self.held = {o: h for o, h in self.held.items() if h[0] is not worker}
                worker.tie.detach()
        elif self.held:
            self.settle(name, sorted(self.held)[step[-1] % len(self.held)])
        await self.world.quiet()
        assert not self.faults

    async def publish(self, key: str, count: int) -> None:
        self.number += 1
        unit = Unit([self.world.draft("jobs", f"{key}.{self.number}", key=key)] * count)
        expected = self.world.engine.stats().next_offset
        self.open.setdefault(key, []).extend(range(expected, expected + count))
        receipt = await self.world.commit(unit)
        assert receipt.offset == expected

    def settle(self, name: str, offset: int) -> None:
        worker, row, deadline = self.held.pop(offset)
        outcome = Outcome(name.split()[0])
        key = unpack_meta(row[3])["key"]
        if outcome in (Outcome.ACK, Outcome.REJECT):
            self.open[key].remove(offset)
        delay = {"retry": 5_000, "retry now": 0}.get(name)
        lost = worker.settle(outcome, [row], delay=delay)
        assert not lost or deadline <= self.world.clock.monotonic_seconds

    async def restart(self) -> None:
        await self.world.restart()
        self.workers.clear()
        self.held.clear()

    async def drain(self) -> None:
        """In the end every message that is not done with comes, in order."""
        self.attach()
        self.workers[-1].tie.grant(10_000, 1 << 30)
        for _ in range(10_000):
            if not any(self.open.values()):
                return
            await self.world.advance(31)
            for offset in sorted(self.held):
                self.settle("ack", offset)
            await self.world.quiet()
            assert not self.faults
        raise AssertionError(f"never came: {self.open}")


class TestAnyCourse:
    @settings(max_examples=settings().max_examples // 4)
    @given(steps=STEPS)
    async def test_keys_stay_in_order_and_nothing_is_lost(
        self, steps: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory, engine_factory: EngineFactory
    ) -> None:
        async with open_world(tmp_path_factory.mktemp("course") / "data", engine_factory) as world:
            await world.subscribe("q", "jobs", ordered=True, lease="30s", retry={"max_attempts": 100_000})
            model = Model(world)
            model.attach()
            for step in steps:
                await model.step(step)
            await model.drain()
            await world.quiet()
            info = world.info()
            assert (info.ready, info.leased, info.delayed, info.blocked) == (0, 0, 0, 0)
