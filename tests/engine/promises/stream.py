"""Streams: replay, live tail without a gap, cursors, slow readers, honest positions, taps (promise 6)."""

import asyncio
import time
from pathlib import Path

import pytest

from broker.core.errors import BrokerError, Code
from broker.core.position import EARLIEST, LATEST, Start
from broker.core.retention import Policies
from broker.core.subscription import Outcome
from broker.engine.base import Unit
from tests.engine.world import EngineFactory, World, open_world


class TestRead:
    async def test_from_every_kind_of_start(self, world: World) -> None:
        receipts = []
        for n in range(5):
            receipts.append(await world.publish("a", str(n)))
            world.clock.move(10)
        middle = receipts[2]

        async def bodies(start: Start) -> str:
            page = await world.read(start=start)
            assert page.recovered
            return b"".join(row[4] for row in page.rows).decode()

        assert await bodies(EARLIEST) == "01234"
        assert await bodies(LATEST) == ""
        assert await bodies(Start("offset", middle.offset)) == "234"
        assert await bodies(Start("offset", middle.offset + 1)) == "34"
        assert await bodies(Start("after", middle.offset, world.engine.epoch)) == "34"
        assert await bodies(Start("time", middle.at)) == "234"
        assert await bodies(Start("time", middle.at + 1)) == "34"
        assert await bodies(Start("time", middle.at - 1)) == "234"
        assert await bodies(Start("time", 0)) == "01234"
        assert await bodies(Start("time", world.clock.now_ms + 10**9)) == ""
        await world.restart()
        assert await bodies(Start("time", middle.at)) == "234"

    async def test_page_by_page(self, world: World) -> None:
        await world.publish("a", *map(str, range(100)))
        await world.publish("b", *["noise"] * 50)
        seen: list[bytes] = []
        start, pages = EARLIEST, 0
        while True:
            page = await world.engine.read(["a"], start, 30)
            assert len(page.rows) <= 30
            seen += [row[4] for row in page.rows]
            pages += 1
            if not page.rows:
                break
            assert page.scanned >= page.rows[-1][0]
            start = Start("after", page.scanned, world.engine.epoch)
        assert seen == [str(n).encode() for n in range(100)]
        assert pages == 5

    @pytest.mark.parametrize("limit", [1, 1_999, 2_000, 2_001, 3_000, 4_999, 5_000, 9_000])
    async def test_any_limit_gives_each_message_once(self, world: World, limit: int) -> None:
        await world.commit(Unit([world.draft("a", str(n)) for n in range(2_500)]))
        await world.commit(Unit([world.draft("ab"[n % 2], str(n)) for n in range(2_500, 7_500)]))
        for filters in (["a"], ["#"]):
            whole = [row[0] for row in (await world.read(*filters)).rows]
            assert whole == sorted(set(whole))
            page = await world.engine.read(filters, EARLIEST, limit, 1 << 40)
            assert [row[0] for row in page.rows] == whole[:limit]
            rest = await world.engine.read(filters, Start("after", page.scanned, world.engine.epoch), 9_000, 1 << 40)
            assert [row[0] for row in rest.rows] == whole[limit:]

    async def test_an_empty_result_still_moves_on(self, world: World) -> None:
        receipt = await world.publish("a", "1", "2")
        page = await world.read("nothing")
        assert page.rows == []
        assert page.scanned >= receipt.offset + 1

    async def test_bytes_are_bounded_but_one_always_comes(self, world: World) -> None:
        await world.publish("a", *[b"x" * 1_000] * 20)
        page = await world.engine.read(["a"], EARLIEST, 100, 5_500)
        assert 1 <= len(page.rows) <= 7
        following = await world.engine.read(["a"], Start("after", page.scanned, world.engine.epoch), 100, 5_500)
        assert following.rows[0][0] == page.rows[-1][0] + 1
        assert len((await world.engine.read(["a"], EARLIEST, 100, 10)).rows) == 1

    async def test_filters(self, world: World) -> None:
        for topic in ("a/1", "a/2", "b", "$dead/x", "a"):
            await world.publish(topic, topic)
        assert await world.log("#") == ["a/1", "a/2", "b", "a"]
        assert await world.log("a/+") == ["a/1", "a/2"]
        assert await world.log("a/#", "+") == ["a/1", "a/2", "b", "a"]
        assert await world.log("$dead/#") == ["$dead/x"]

    async def test_another_epoch_is_told(self, world: World) -> None:
        receipt = await world.publish("a", "1", "2")
        page = await world.read(start=Start("after", receipt.offset, "elsewhere"))
        assert page.recovered is False
        assert [row[4] for row in page.rows] == [b"1", b"2"]

    async def test_a_long_log_is_whole_after_a_restart(self, world: World) -> None:
        """Units of a size that divides nothing, over several of whatever pieces an engine keeps its log in."""
        size, unit = 210_000, 7_001
        for start in range(0, size, unit):
            numbers = range(start, min(start + unit, size))
            await world.commit(Unit([world.draft("odd" if n % 2 else "even", str(n)) for n in numbers]))
        await world.subscribe("q", "odd", **{"from": "earliest"})
        for revive in (world.quiet, world.restart, world.crash):
            await revive()
            assert await world.log("odd", "even") == [str(n) for n in range(size)]
            assert await world.log("odd") == [str(n) for n in range(1, size, 2)]
            assert world.info().ready == size // 2
            assert [t.messages for t in world.engine.topics() if t.name != "other"] == [size // 2] * 2
            await world.publish("other", "x")

    @pytest.mark.parametrize("size", [20_000, pytest.param(1_000_000, marks=pytest.mark.proof)])
    async def test_a_selective_filter_costs_what_it_finds(self, world: World, size: int) -> None:
        for start in range(0, size, 10_000):
            drafts = [world.draft("rare" if n % 1_000 == 7 else "usual", str(n)) for n in range(start, start + 10_000)]
            await world.commit(Unit(drafts))
        for _ in range(2):
            started = time.perf_counter()
            rare = await world.log("rare")
            cost = time.perf_counter() - started
            assert rare == [str(n) for n in range(7, size, 1_000)]
            await world.restart()
        if size >= 1_000_000:
            started = time.perf_counter()
            assert len(await world.log("usual")) == size - len(rare)
            assert cost < (time.perf_counter() - started) / 20


class TestFollow:
    async def test_replay_goes_on_live_without_a_gap(self, world: World) -> None:
        await world.publish("a", *map(str, range(3_000)))
        reader = world.follow(["a"], EARLIEST)
        assert reader.tie.recovered
        for n in range(3_000, 3_300, 3):
            world.engine.commit(Unit([world.draft("a", str(n + i)) for i in range(3)], sender=n % 5))
            world.engine.commit(Unit([world.draft("noise", "x")], sender="noise"))
            if n % 30 == 0:
                await asyncio.sleep(0)
        rows = await reader.take(3_300)
        await world.quiet()
        assert reader.waiting == []
        assert [row[0] for row in rows] == [row[0] for row in (await world.read("a")).rows]
        assert [int(row[4]) for row in rows[:3_000]] == list(range(3_000))

    async def test_joining_at_any_moment_misses_nothing(self, world: World) -> None:
        readers, units = [], []
        for n in range(60):
            units.append(world.answer(Unit([world.draft("a", f"{n}.{i}") for i in range(20)])))
            if n % 6 == 0:
                readers.append(world.follow(["#"], EARLIEST, messages=10_000))
            if n % 4 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*units)
        everything = [row[0] for row in (await world.read()).rows]
        assert len(everything) == 1_200
        for reader in readers:
            await reader.take(1_200)
            assert reader.offsets == everything

    async def test_latest_begins_now(self, world: World) -> None:
        await world.publish("a", "old")
        reader = world.follow(["a"], LATEST)
        await world.publish("a", "new")
        assert await reader.bodies(1) == ["new"]

    async def test_a_position_goes_on_after_what_was_seen(self, world: World) -> None:
        receipt = await world.publish("a", "1", "2", "3")
        reader = world.follow(["a"], Start("after", receipt.offset, world.engine.epoch))
        assert reader.tie.recovered
        assert reader.tie.position == receipt.offset
        assert await reader.bodies(2) == ["2", "3"]

    async def test_another_epoch_is_told(self, world: World) -> None:
        receipt = await world.publish("a", "1", "2")
        reader = world.follow(["a"], Start("after", receipt.offset, "elsewhere"))
        assert reader.tie.recovered is False
        assert await reader.bodies(2) == ["1", "2"]
        assert reader.tie.position < receipt.offset

    async def test_a_slow_reader_is_fed_by_its_credit_and_harms_nobody(self, world: World) -> None:
        slow, quick = world.follow(["a"], LATEST, messages=5), world.follow(["a"], LATEST)
        for n in range(200):
            await world.publish("a", *[f"{n}.{i}" for i in range(10)])
        assert len(await quick.take(2_000)) == 2_000
        await world.quiet()
        assert len(slow.rows) == 5
        for _ in range(4):
            slow.tie.grant(499, 1 << 20)
            await world.quiet()
        await world.publish("a", "end")
        slow.tie.grant(100, 1 << 20)
        await slow.until(lambda: len(slow.rows) == 2_002 - 1)
        assert slow.offsets == (quick.offsets + [row[0] for row in (await quick.take(1))])[: len(slow.offsets)]

    async def test_bytes_of_credit_hold_a_reader_too(self, world: World) -> None:
        reader = world.follow(["a"], EARLIEST, 100, 250)
        await world.publish("a", *[b"x" * 100] * 5)
        await world.quiet()
        assert len(reader.rows) == 2
        reader.tie.grant(0, 250)
        await world.quiet()
        assert len(reader.rows) == 5

    async def test_a_reader_that_left_gets_nothing_more(self, world: World) -> None:
        reader = world.follow(["a"], EARLIEST)
        await world.publish("a", "1")
        await reader.take(1)
        reader.tie.detach()
        await world.publish("a", "2")
        await world.quiet()
        assert reader.waiting == []

    async def test_stop_tells_readers(self, world: World) -> None:
        reader = world.follow(["a"], EARLIEST)
        await world.restart()
        assert [error.code for error in reader.errors] == [Code.SHUTTING_DOWN]


class TestCursor:
    async def test_a_named_cursor_goes_on_where_it_was_committed(self, world: World) -> None:
        await world.subscribe("s", "a", kind="stream", **{"from": "earliest"})
        reader = world.attach("s")
        await world.publish("a", *"12345")
        rows = await reader.take(5)
        assert reader.ack(rows[:3]) == []
        await world.quiet()
        await world.crash()
        assert world.info("s").floor == rows[2][0]
        reader = world.attach("s")
        assert reader.tie.position == rows[2][0]
        assert await reader.bodies(2) == ["4", "5"]

    async def test_what_was_not_committed_comes_again_to_the_next_reader(self, world: World) -> None:
        await world.subscribe("s", "a", kind="stream")
        reader = world.attach("s")
        await world.publish("a", "1", "2")
        await reader.take(2)
        reader.tie.detach()
        assert await world.attach("s").bodies(2) == ["1", "2"]

    async def test_a_cursor_moves_in_a_unit_with_publishes(self, world: World) -> None:
        await world.subscribe("s", "a", kind="stream")
        reader = world.attach("s")
        await world.publish("a", "1", "2")
        rows = await reader.take(2)
        assert await world.settle(Outcome.ACK, rows[0][0], "s") == []
        await world.crash()
        assert await world.attach("s").bodies(1) == ["2"]

    async def test_a_cursor_may_begin_at_a_time(self, world: World) -> None:
        await world.publish("a", "1")
        world.clock.move(10)
        await world.publish("a", "2")
        await world.subscribe("s", "a", kind="stream", **{"from": "2026-11-23T09:00:05Z"})
        await world.subscribe("later", "a", kind="stream", **{"from": "2026-11-23T09:01:00Z"})
        for _ in range(2):
            assert await world.attach("s").bodies(1) == ["2"]
            assert world.info("later").lag == 0
            await world.crash()

    async def test_a_cursor_never_goes_back(self, world: World) -> None:
        await world.subscribe("s", "a", kind="stream")
        reader = world.attach("s")
        await world.publish("a", "1", "2", "3")
        rows = await reader.take(3)
        reader.ack(rows)
        reader.ack(rows[:1])
        await world.restart()
        assert world.info("s").floor >= rows[2][0]
        await world.publish("a", "4")
        assert await world.attach("s").bodies(1) == ["4"]

    async def test_lag_is_what_is_left_to_read(self, world: World) -> None:
        await world.subscribe("s", "a", kind="stream", **{"from": "earliest"})
        await world.publish("a", "1", "2", "3")
        reader = world.attach("s")
        rows = await reader.take(3)
        assert world.info("s").consumers == 1
        assert world.info("s").lag >= 3
        reader.ack(rows)
        await world.quiet()
        assert world.info("s").lag == 0

    async def test_a_reader_may_narrow_the_filters(self, world: World) -> None:
        await world.subscribe("s", "a/#", kind="stream", **{"from": "earliest"})
        for topic in ("a/1", "a/2", "b"):
            await world.publish(topic, topic)
        reader = world.attach("s", filters=["a/2", "b"])
        await world.publish("a/2", "live")
        assert await reader.bodies(2) == ["a/2", "live"]
        await world.quiet()
        assert reader.waiting == []

    async def test_two_readers_of_one_cursor_both_see_everything(self, world: World) -> None:
        await world.subscribe("s", "a", kind="stream")
        first, second = world.attach("s"), world.attach("s")
        await world.publish("a", "1")
        assert await first.bodies(1) == await second.bodies(1) == ["1"]

    async def test_deleting_lets_readers_go(self, world: World) -> None:
        await world.subscribe("s", "a", kind="stream")
        reader = world.attach("s")
        await world.engine.delete_subscription("s")
        assert len(reader.errors) == 1
        await world.publish("a", "1")
        await world.quiet()
        assert reader.waiting == []


class TestTap:
    async def test_a_tap_sees_what_passes_and_skips_what_exceeds_its_credit(self, world: World) -> None:
        await world.publish("a", "before")
        tap = world.tap(["a"], messages=2)
        await world.publish("a", "1", "2", "3")
        await world.publish("b", "x")
        tap.tie.grant(10, 100)
        await world.publish("a", "4")
        assert await tap.bodies(3) == ["1", "2", "4"]

    async def test_memory_topics_reach_taps_and_are_not_kept(self, engine_factory: EngineFactory, world: World) -> None:
        tap = world.tap(["$reply/#"])
        follower = world.follow(["$reply/me"], LATEST)
        receipt = await world.publish("$reply/me", "answer")
        assert receipt.error is None
        assert await tap.bodies(1) == ["answer"]
        await world.quiet()
        assert await world.log("$reply/#") == []
        assert len(follower.rows) <= 1
        await world.publish("a", "kept")
        await world.crash()
        assert await world.log("#", "$reply/#") == ["kept"]

    async def test_a_tap_that_left_sees_no_more(self, world: World) -> None:
        tap = world.tap(["a"])
        tap.tie.detach()
        await world.publish("a", "1")
        await world.quiet()
        assert tap.waiting == []


class TestRetention:
    @pytest.fixture
    async def keeping(self, tmp_path, engine_factory: EngineFactory):  # type: ignore[no-untyped-def]
        policies = Policies.parse(
            {"young": {"age": "60s"}, "few": {"count": 3}, "small": {"bytes": 250}, "last": {"latest": True}}
        )
        async with open_world(tmp_path / "data", engine_factory, policies) as world:
            yield world

    async def test_age(self, keeping: World) -> None:
        await keeping.publish("young", "1")
        await keeping.publish("other", "x")
        await keeping.advance(40)
        await keeping.publish("young", "2")
        await self.prune(keeping, 30)
        assert await keeping.log() == ["x", "2"]

    async def test_count_and_bytes(self, keeping: World) -> None:
        await keeping.publish("few", *"12345")
        await keeping.publish("small", *[letter * 100 for letter in "abcd"])
        await self.prune(keeping)
        assert await keeping.log("few") == ["3", "4", "5"]
        assert [body[0] for body in await keeping.log("small")] == ["c", "d"]

    async def test_latest_of_each_key(self, keeping: World) -> None:
        for key, body in ("a1", "b1", "a2", "c1", "a3"):
            await keeping.publish("last", key + body, key=key)
        await self.prune(keeping)
        assert await keeping.log("last") == ["b1", "c1", "a3"]

    async def test_what_a_queue_has_not_settled_stays(self, keeping: World) -> None:
        worker = await keeping.queue("few")
        await keeping.publish("few", *"123456")
        rows = await worker.take(6)
        worker.ack(rows[1:])
        await self.prune(keeping)
        assert await keeping.log("few") == ["1", "4", "5", "6"]
        await keeping.restart()
        assert await keeping.attach("q").bodies(1) == ["1"]

    async def test_dead_letters_stay(self, keeping: World) -> None:
        worker = await keeping.queue("young")
        await keeping.publish("young", "1")
        worker.settle(Outcome.REJECT, await worker.take(1))
        await self.prune(keeping, 10 * 365 * 86_400)
        assert await keeping.log("young", "$dead/#") == ["1"]

    async def test_a_position_below_what_was_pruned_is_told(self, keeping: World) -> None:
        receipt = await keeping.publish("few", *"12345")
        await self.prune(keeping)
        page = await keeping.read("few", start=Start("after", receipt.offset, keeping.engine.epoch))
        assert page.recovered is False
        assert [row[4] for row in page.rows] == [b"3", b"4", b"5"]
        fine = await keeping.read("few", start=Start("after", receipt.offset + 2, keeping.engine.epoch))
        assert fine.recovered is True
        reader = keeping.follow(["few"], Start("offset", receipt.offset))
        assert reader.tie.recovered is False
        assert await reader.bodies(3) == ["3", "4", "5"]
        await keeping.crash()
        page = await keeping.read("few", start=Start("after", receipt.offset, keeping.engine.epoch))
        assert page.recovered is False

    async def test_counts_follow(self, keeping: World) -> None:
        await keeping.publish("few", *"12345")
        await self.prune(keeping)
        [info] = keeping.engine.topics()
        assert (info.messages, info.bytes) == (3, 3)

    async def prune(self, world: World, seconds: float = 0) -> None:
        """Retention works in its own time, every few seconds, in small steps."""
        await world.quiet()
        await world.advance(seconds + 10)
        for _ in range(3):
            await world.advance(4)


class TestRefusals:
    async def test_unknown_subscriptions(self, world: World) -> None:
        for call in (lambda: world.attach("nobody"), lambda: world.info("nobody")):
            with pytest.raises(BrokerError) as refusal:
                call()
            assert refusal.value.code is Code.UNKNOWN_SUBSCRIPTION
        for awaited in (
            world.engine.peek("nobody", 1),
            world.engine.purge("nobody"),
            world.engine.pause("nobody", True),
            world.engine.delete_subscription("nobody"),
        ):
            with pytest.raises(BrokerError) as refusal:
                await awaited
            assert refusal.value.code is Code.UNKNOWN_SUBSCRIPTION

    async def test_what_only_queues_can(self, world: World) -> None:
        await world.subscribe("s", "a", kind="stream")
        for awaited in (world.engine.peek("s", 1), world.engine.purge("s")):
            with pytest.raises(BrokerError) as refusal:
                await awaited
            assert refusal.value.code is Code.WRONG_KIND


class TestPassing:
    """Messages that promise nothing: stored for who must find them later, else seen by who listens now."""

    async def test_nobody_who_must_find_it_later_means_not_kept(self, world: World) -> None:
        passer, tap = world.passer(["a/#"]), world.tap(["#"])
        assert not world.engine.keeps("a/1")
        world.engine.pass_by([world.draft("a/1", "x"), world.draft("b", "y")])
        assert passer.waiting == ["x"]
        assert tap.waiting == ["x", "y"]
        assert passer.offsets == [0]
        assert await world.log("#") == []
        await world.publish("a/2", "z")
        assert await passer.bodies(2) == ["x", "z"]

    @pytest.mark.parametrize("kind", ["queue", "stream"])
    async def test_kept_for_a_subscription_as_long_as_it_wants_it(self, world: World, kind: str) -> None:
        assert not world.engine.keeps("a/1")
        await world.subscribe("s", "a/#", kind=kind)
        assert world.engine.keeps("a/1")
        assert not world.engine.keeps("b")
        await world.subscribe("s", "b", kind=kind)
        assert not world.engine.keeps("a/1")
        assert world.engine.keeps("b")
        await world.restart()
        assert world.engine.keeps("b")
        await world.engine.delete_subscription("s")
        assert not world.engine.keeps("b")

    async def test_kept_for_a_reader_of_the_log(self, world: World) -> None:
        follower = world.follow(["a/#"], LATEST)
        assert world.engine.keeps("a/1")
        follower.tie.detach()
        assert not world.engine.keeps("a/1")

    async def test_kept_by_a_policy_that_names_it(self, tmp_path: Path, engine_factory: EngineFactory) -> None:
        policies = Policies.parse({"kept/#": {"age": "1h"}, "short/#": {"durability": "memory"}})
        async with open_world(tmp_path / "named", engine_factory, policies) as world:
            assert world.engine.keeps("kept/1")
            assert not world.engine.keeps("short/1")
            assert not world.engine.keeps("other")

    async def test_who_has_no_credit_misses_it_and_goes_on(self, world: World) -> None:
        passer = world.passer(["a"], messages=2)
        world.engine.pass_by([world.draft("a", text) for text in "123"])
        assert passer.waiting == ["1", "2"]
        await world.publish("a", "4")
        passer.tie.grant(10, 1_000)
        assert await passer.bodies(3) == ["1", "2", "4"]
        assert passer.tie.skipped == 1

    async def test_a_passer_sees_topics_of_durability_memory_and_the_log_in_its_order(
        self, tmp_path: Path, engine_factory: EngineFactory
    ) -> None:
        policies = Policies.parse({"short/#": {"durability": "memory"}})
        async with open_world(tmp_path / "short", engine_factory, policies) as world:
            passer = world.passer(["#"])
            await world.commit(Unit([world.draft("long", "1"), world.draft("short/1", "s"), world.draft("long", "2")]))
            assert sorted(await passer.bodies(3)) == ["1", "2", "s"]
            assert [row[4] for row in passer.rows if row[0]] == [b"1", b"2"]
