"""Commit before answer, all or nothing, offsets that rise (promises 1 to 3 of the seam)."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.core.message import unpack_meta
from broker.core.position import LATEST
from broker.core.subscription import Outcome
from broker.engine.base import Receipt, Scheduled, Sequences, Set, Settle, Unit
from tests.engine.world import EngineFactory, World, open_world

DRAFTS = st.lists(st.tuples(st.sampled_from(["a", "a/b", "c"]), st.binary(max_size=300)), max_size=20)


class TestCommit:
    async def test_a_receipt_names_the_place_of_every_message(self, world: World) -> None:
        receipt = await world.publish("a", "one", "two", key="k", headers={"h": "v"})
        rows = (await world.read()).rows
        assert [row[0] for row in rows] == [receipt.offset, receipt.offset + 1]
        assert [row[4] for row in rows] == [b"one", b"two"]
        assert [row[2] for row in rows] == [receipt.at] * 2
        assert receipt.at == world.clock.now_ms
        assert unpack_meta(rows[0][3]) == {"key": "k", "headers": {"h": "v"}}

    async def test_messages_are_found_by_their_places(self, world: World) -> None:
        receipt = await world.publish("a", "one", "two", "three")
        places = [receipt.offset + i for i in (2, 0, 9)]
        rows, count = await world.engine.fetch_within(places, 100)
        assert ([row[4] for row in rows], count) == ([b"one", b"three"], 3)
        rows, count = await world.engine.fetch_within(places, 1)
        assert ([row[4] for row in rows], count) == ([b"three"], 1)

    async def test_what_is_in_no_log_has_no_place(self, world: World) -> None:
        """`$reply/#` is of durability `memory`; alone, and among others."""
        (tap, follower) = (world.tap(["#", "$reply/#"]), world.follow(["#"], LATEST))
        alone = await world.commit(Unit([world.draft("$reply/a", "r1"), world.draft("$reply/a", "r2")]))
        units = [
            Unit([world.draft("a", "1"), world.draft("$reply/a", "r3"), world.draft("a", "2", id="x")]),
            Unit([world.draft("a", "2", id="x")]),
            Unit([world.draft("$reply/a", "r4", id="x")]),
        ]
        mixed, again, last = await asyncio.gather(*map(world.answer, units))
        assert [[r.place(i) for i in range(n)] for r, n in ((alone, 2), (last, 1))] == [[None, None], [None]]
        first, second = [row[0] for row in await follower.take(2)]
        assert [mixed.place(i) for i in range(3)] == [first, None, second]
        assert again.place(0) == second
        seen = {row[4].decode(): row[0] for row in await tap.take(6)}
        assert seen == {"r1": 0, "r2": 0, "r3": 0, "r4": 0, "1": first, "2": second}

    async def test_offsets_rise_strictly_and_senders_keep_their_order(self, world: World) -> None:
        units = [Unit([world.draft("a", f"{s}{i}")], sender=s) for i in range(40) for s in "xyz"]
        receipts = await asyncio.gather(*[world.answer(unit) for unit in units])
        assert all(r.error is None for r in receipts)
        offsets = [r.offset for r in receipts]
        assert len(set(offsets)) == len(units)
        for first in range(3):
            assert offsets[first::3] == sorted(offsets[first::3])
        bodies = await world.log()
        assert [b for b in bodies if b[0] == "x"] == [f"x{i}" for i in range(40)]

    async def test_the_answer_never_comes_inside_the_call(self, world: World) -> None:
        answers: list[Receipt] = []
        world.engine.commit(Unit([world.draft("a", "1")], answers.append))
        assert not answers
        await world.quiet()
        assert len(answers) == 1

    async def test_an_empty_unit_is_answered_after_all_before_it(self, world: World) -> None:
        order: list[str] = []
        world.engine.commit(Unit([world.draft("a", "1")], lambda _: order.append("first"), sender="s"))
        world.engine.commit(Unit([], lambda _: order.append("second"), sender="s"))
        await world.quiet()
        assert order == ["first", "second"]

    async def test_what_is_answered_is_on_disk(self, world: World, engine_factory: EngineFactory) -> None:
        """The folder is copied inside the answer: a daemon killed at that moment would find this."""
        copies: list[Path] = []
        for i in range(5):
            world.engine.commit(Unit([world.draft("a", f"m{i}")], lambda _: copies.append(world.copy())))
            await world.quiet()
        for i, copy in enumerate(copies):
            async with open_world(copy, engine_factory) as after:
                assert await after.log() == [f"m{n}" for n in range(i + 1)]

    async def test_nobody_is_served_before_it_is_on_disk(self, world: World, engine_factory: EngineFactory) -> None:
        await world.subscribe("s", "a", kind="stream")
        readers = [await world.queue("a"), world.attach("s"), world.tap(["a"])]
        copies: list[Path] = []
        for reader in readers:
            reader.on_deliver = lambda _: copies.append(world.copy())
        await world.publish("a", "m")
        for reader in readers:
            await reader.take(1)
        assert len(copies) == 3
        for copy in copies:
            async with open_world(copy, engine_factory) as after:
                assert await after.log() == ["m"]

    async def test_a_unit_does_everything_together(self, world: World) -> None:
        worker = await world.queue("a")
        await world.publish("a", "job")
        [job] = await worker.take(1)
        receipt = await world.commit(
            Unit(
                [world.draft("b", "result")],
                publisher=Sequences("p", 1, 7),
                settles=[Settle("q", Outcome.ACK, job[0], worker.lease_of(job[0]))],
                sets=[Set("k", b"v", 0)],
                schedules=[world.later("c", "new", 60, "new")],
            )
        )
        await world.crash()
        assert await world.log("b") == ["result"]
        assert world.info().ready == world.info().leased == 0
        assert await world.engine.get("k") == (b"v", receipt.revisions[0])
        assert [s.id for s in await world.engine.scheduled(10)] == ["new"]
        assert world.engine.publisher("p")[0] == 7

    async def test_a_failing_condition_undoes_its_unit_and_no_other(self, world: World) -> None:
        worker = await world.queue("a")
        await world.publish("a", "job")
        [job] = await worker.take(1)
        lease = worker.lease_of(job[0])
        good1 = world.answer(Unit([world.draft("b", "good1")]))
        bad = world.answer(
            Unit(
                [world.draft("b", "bad")],
                publisher=Sequences("p", 1, 7),
                settles=[Settle("q", Outcome.ACK, job[0], lease)],
                sets=[Set("x", b"1"), Set("k", b"v", 99)],
                schedules=[world.later("c", "new", 60, "new")],
            )
        )
        good2 = world.answer(Unit([world.draft("b", "good2")], sets=[Set("y", b"1")]))
        error = (await bad).error
        assert error is not None
        assert error.code is Code.CONDITION_FAILED
        assert (await good1).error is (await good2).error is None
        assert await world.log("b") == ["good1", "good2"]
        assert await world.engine.keys("") == ["y"]
        assert await world.engine.scheduled(10) == []
        assert world.info().leased == 1
        assert worker.ack([job]) == []

    async def test_units_larger_than_a_transaction_are_still_one(self, world: World) -> None:
        worker = await world.queue("a")
        receipt = await world.commit(Unit([world.draft("a", b"x" * 1_000) for _ in range(12_000)]))
        rows = await worker.take(12_000)
        assert [row[0] for row in rows] == list(range(receipt.offset, receipt.offset + 12_000))

    async def test_many_senders_are_all_answered(self, world: World) -> None:
        units = [Unit([world.draft("a", b"x" * 400_000)], sender=i % 7) for i in range(60)]
        receipts = await asyncio.gather(*[world.answer(unit) for unit in units])
        assert sorted(r.offset for r in receipts) == sorted(row[0] for row in (await world.read()).rows)

    async def test_after_stop_nothing_is_taken(self, world: World) -> None:
        await world.engine.stop()
        with pytest.raises(BrokerError) as refusal:
            await world.publish("a", "1")
        assert refusal.value.code is Code.SHUTTING_DOWN
        await world.start()

    async def test_after_stop_nobody_waits_for_ever(self, world: World) -> None:
        await world.engine.stop()
        async with asyncio.timeout(5):
            with pytest.raises(BrokerError) as refusal:
                await world.subscribe("q", "a")
        assert refusal.value.code is Code.SHUTTING_DOWN

    async def test_stop_commits_what_waits(self, world: World) -> None:
        answers = [world.answer(Unit([world.draft("a", str(i))], sender=i)) for i in range(20)]
        await world.engine.stop()
        receipts = await asyncio.gather(*answers)
        assert all(receipt.error is None for receipt in receipts)
        await world.start()
        assert len(await world.log()) == 20

    async def test_offsets_go_on_rising_after_restart_and_crash(self, world: World) -> None:
        first = await world.publish("a", "1", "2")
        await world.crash()
        second = await world.publish("a", "3")
        await world.restart()
        third = await world.publish("a", "4")
        assert first.offset + 1 < second.offset < third.offset
        assert await world.log() == ["1", "2", "3", "4"]

    async def test_the_epoch_lasts(self, world: World) -> None:
        epoch = world.engine.epoch
        await world.restart()
        assert world.engine.epoch == epoch

    async def test_published_at_never_falls_when_the_clock_steps_back(self, world: World) -> None:
        first = await world.publish("a", "1")
        world.clock.wall_seconds -= 30
        second = await world.publish("a", "2")
        assert second.at >= first.at

    async def test_topics_count_what_they_hold(self, world: World) -> None:
        await world.publish("b", "12345", "123")
        await world.publish("a", "1")
        for _ in range(2):
            found = [(t.name, t.messages, t.bytes) for t in world.engine.topics()]
            assert found == [("a", 1, 1), ("b", 2, 8)]
            await world.restart()

    async def test_stats_tell_the_state(self, world: World) -> None:
        receipt = await world.publish("a", "1", "2")
        stats = world.engine.stats()
        assert stats.state == "running"
        assert stats.epoch == world.engine.epoch
        assert stats.next_offset > receipt.offset + 1
        assert stats.committed_messages == 2

    @settings(max_examples=settings().max_examples // 7)
    @given(units=st.lists(DRAFTS, max_size=8))
    async def test_any_bytes_come_back_as_they_went_in(
        self,
        units: list[list[tuple[str, bytes]]],
        tmp_path_factory: pytest.TempPathFactory,
        engine_factory: EngineFactory,
    ) -> None:
        async with open_world(tmp_path_factory.mktemp("any") / "data", engine_factory) as world:
            answers = [world.answer(Unit([world.draft(t, b) for t, b in drafts], sender=1)) for drafts in units]
            receipts = await asyncio.gather(*answers)
            await world.restart()
            rows = (await world.read()).rows
            assert [(row[1], row[4]) for row in rows] == [draft for drafts in units for draft in drafts]
            expected = [r.offset + i for r, drafts in zip(receipts, units, strict=True) for i in range(len(drafts))]
            assert [row[0] for row in rows] == expected


class TestPublisher:
    async def test_a_publishers_sequence_is_committed_with_its_unit(self, world: World) -> None:
        assert world.engine.publisher("p") == (0, [])
        await world.commit(Unit([world.draft("a", "1"), world.draft("a", "2")], publisher=Sequences("p", 1, 2)))
        await world.commit(Unit([world.draft("a", "3")], publisher=Sequences("p", 3, 3)))
        await world.commit(Unit([world.draft("a", "x")], publisher=Sequences("other", 1, 1)))
        assert world.engine.publisher("p") == (3, [])
        await world.crash()
        assert world.engine.publisher("p") == (3, [])
        assert world.engine.publisher("other") == (1, [])
        assert world.engine.publisher("unknown") == (0, [])

    async def test_the_sequence_does_not_count_before_the_commit(self, world: World) -> None:
        answer = world.answer(Unit([world.draft("a", "1")], publisher=Sequences("p", 1, 5)))
        assert world.engine.publisher("p") == (0, [])
        await answer
        assert world.engine.publisher("p") == (5, [])

    async def test_refused_sequences_outlive_a_lost_answer(self, world: World) -> None:
        await world.subscribe("q", "full", max_messages=1)
        await world.commit(Unit([world.draft("full", "1")], publisher=Sequences("p", 1, 1)))
        unit = Unit([world.draft("full", "2"), world.draft("full", "3")], publisher=Sequences("p", 2, 3))
        receipt = await world.answer(unit)
        assert receipt.error is not None
        refused = ((4, 1, "bad_topic"),)
        await world.commit(Unit([world.draft("a", "5")], publisher=Sequences("p", 5, 5, refused)))
        expected = (5, [(2, 2, "queue_full"), (4, 1, "bad_topic")])
        assert world.engine.publisher("p") == expected
        await world.crash()
        assert world.engine.publisher("p") == expected


class TestIdempotence:
    async def test_the_same_id_is_stored_once_and_answered_with_the_first_offset(self, world: World) -> None:
        worker = await world.queue("a")
        first = await world.publish("a", "1", id="i")
        await world.publish("a", "other")
        for _ in range(2):
            again = await world.publish("a", "1", id="i")
            assert dict(again.duplicates) == {0: first.offset}
        await world.crash()
        assert dict((await world.publish("a", "1", id="i")).duplicates) == {0: first.offset}
        assert await world.log() == ["1", "other"]
        assert await worker.bodies(2) == ["1", "other"]
        assert worker.waiting == []

    async def test_another_topic_is_another_message(self, world: World) -> None:
        await world.publish("a", "1", id="i")
        assert not (await world.publish("b", "1", id="i")).duplicates

    async def test_duplicates_inside_one_unit_and_one_commit(self, world: World) -> None:
        drafts = [world.draft("a", "1", id="i"), world.draft("a", "2"), world.draft("a", "1", id="i")]
        first, second = world.answer(Unit(drafts)), world.answer(Unit([world.draft("a", "3"), drafts[0]]))
        receipt, again = await first, await second
        assert dict(receipt.duplicates) == {2: receipt.offset}
        assert dict(again.duplicates) == {1: receipt.offset}
        page = await world.read()
        assert [row[4] for row in page.rows] == [b"1", b"2", b"3"]
        assert [row[0] for row in page.rows] == [receipt.offset, receipt.offset + 1, again.offset]

    async def test_an_id_outlives_its_message_but_not_for_ever(self, world: World) -> None:
        await world.publish("a", "1", id="i")
        await world.advance(6 * 86_400)
        assert (await world.publish("a", "1", id="i")).duplicates
        for _ in range(6):
            await world.advance(5 * 86_400)
            await world.publish("other", "x", id=str(world.clock.now_ms))
        assert not (await world.publish("a", "1", id="i")).duplicates

    async def test_a_duplicate_of_a_message_that_still_waits_has_no_offset_yet(self, world: World) -> None:
        await world.commit(Unit(schedules=[world.later("a", "1", 60, "i")]))
        assert dict((await world.publish("a", "1", id="i")).duplicates) == {0: -1}
        await world.advance(61)
        [row] = (await world.read()).rows
        assert dict((await world.publish("a", "1", id="i")).duplicates) == {0: row[0]}


class TestKeyValue:
    async def test_a_value_is_written_read_and_deleted(self, world: World) -> None:
        engine = world.engine
        assert await engine.get("k") is None
        first = (await world.commit(Unit(sets=[Set("k", b"1")]))).revisions[0]
        assert await engine.get("k") == (b"1", first)
        second = (await world.commit(Unit(sets=[Set("k", b"2")]))).revisions[0]
        assert second > first > 0
        await world.commit(Unit(sets=[Set("k", None)]))
        assert await engine.get("k") is None
        third = (await world.commit(Unit(sets=[Set("k", b"")]))).revisions[0]
        assert third > second
        assert await engine.get("k") == (b"", third)

    async def test_expected_revisions(self, world: World) -> None:
        async def refused(expect: int) -> None:
            with pytest.raises(BrokerError) as refusal:
                await world.commit(Unit(sets=[Set("k", b"no", expect)]))
            assert refusal.value.code is Code.CONDITION_FAILED

        await refused(5)
        first = (await world.commit(Unit(sets=[Set("k", b"1", 0)]))).revisions[0]
        await refused(0)
        await refused(first + 1)
        second = (await world.commit(Unit(sets=[Set("k", b"2", first)]))).revisions[0]
        await refused(first)
        await world.commit(Unit(sets=[Set("k", None, second)]))
        await refused(second)
        await world.commit(Unit(sets=[Set("k", b"3", 0)]))

    async def test_of_rivals_in_one_commit_exactly_one_wins(self, world: World) -> None:
        answers = [world.answer(Unit(sets=[Set("lock", str(i).encode(), 0)], sender=i)) for i in range(10)]
        receipts = await asyncio.gather(*answers)
        winners = [i for i, r in enumerate(receipts) if r.error is None]
        assert len(winners) == 1
        assert await world.engine.get("lock") == (str(winners[0]).encode(), receipts[winners[0]].revisions[0])

    async def test_two_writes_of_one_unit_see_one_another(self, world: World) -> None:
        receipt = await world.commit(Unit(sets=[Set("k", b"1", 0), Set("k", b"2")]))
        assert len(receipt.revisions) == 2
        assert await world.engine.get("k") == (b"2", receipt.revisions[1])

    async def test_keys_by_prefix(self, world: World) -> None:
        names = ["a", "a%b", "a_b", "ab", "b", "é/1", "é/2", ""]
        await world.commit(Unit(sets=[Set(name, b"v") for name in names]))
        assert await world.engine.keys("") == sorted(names)
        assert await world.engine.keys("a") == ["a", "a%b", "a_b", "ab"]
        assert await world.engine.keys("a%") == ["a%b"]
        assert await world.engine.keys("a_") == ["a_b"]
        assert await world.engine.keys("é/") == ["é/1", "é/2"]
        assert await world.engine.keys("z") == []
        assert await world.engine.keys("", limit=3) == sorted(names)[:3]
        assert await world.engine.keys("", "a_b", 3) == ["ab", "b", "é/1"]
        assert await world.engine.keys("a", "a%b") == ["a_b", "ab"]
        assert await world.engine.keys("b", "a") == ["b"]
        assert await world.engine.keys("a", "b") == await world.engine.keys("", "é/2") == []

    async def test_items_by_prefix(self, world: World) -> None:
        names = ("a", "a/\U0010ffff", "a/1", "b", "a/é")
        receipt = await world.commit(Unit(sets=[Set(name, name.encode()) for name in names]))
        revisions = dict(zip(names, receipt.revisions, strict=True))
        wanted = [(name, name.encode(), revisions[name]) for name in ("a/1", "a/é", "a/\U0010ffff")]
        assert await world.engine.items("a/") == wanted
        assert len(await world.engine.items("")) == len(names)

    async def test_keys_survive_and_revisions_go_on(self, world: World) -> None:
        first = (await world.commit(Unit(sets=[Set("k", b"1")]))).revisions[0]
        await world.crash()
        assert await world.engine.get("k") == (b"1", first)
        assert (await world.commit(Unit(sets=[Set("k", b"2", first)]))).revisions[0] > first


UNSTORABLE = [
    Unit(sets=[Set("half of a pair: \ud800", b"v")]),
    Unit(sets=[Set("half of a pair: \ud800", b"v", 0)]),
    Unit(schedules=[Scheduled("\ud800", 10**15, ("a", None, b""))]),
    Unit(schedules=[Scheduled("far", 1 << 63, ("a", None, b""))]),
    Unit(publisher=Sequences("\ud800", 1, 1)),
    Unit(publisher=Sequences("p", 1, 1 << 63)),
]


class TestPoison:
    """What cannot be, or fails by an error in the program, fails alone."""

    @pytest.mark.parametrize("poison", UNSTORABLE)
    async def test_what_cannot_be_stored_is_refused_alone(self, world: World, poison: Unit) -> None:
        before = world.answer(Unit([world.draft("a", "before")]))
        refused = world.answer(poison)
        after = world.answer(Unit([world.draft("a", "after")]))
        receipts = await asyncio.gather(before, refused, after)
        assert [r.error.code if r.error else None for r in receipts] == [None, Code.BAD_REQUEST, None]
        await world.restart()
        assert await world.log() == ["before", "after"]

    async def test_a_unit_that_cannot_be_taken_harms_no_other(self, world: World) -> None:
        await world.queue()
        poison = Unit([world.draft("a", "lost")], settles=[Settle("q", Outcome.ACK, "no offset")])  # type: ignore[arg-type]
        units = [Unit([world.draft("a", "1")]), poison, Unit([world.draft("a", "2")])]
        receipts = await asyncio.gather(*map(world.answer, units))
        assert [receipt.error and receipt.error.code for receipt in receipts] == [None, Code.INTERNAL, None]
        assert await world.log() == ["1", "2"]
        await world.publish("a", "3")

    async def test_a_consumer_that_fails_in_all_harms_no_other(self, world: World) -> None:
        def fail(_: object) -> None:
            raise RuntimeError("on purpose")

        good = await world.queue("jobs", messages=0)
        await world.publish("jobs", "1")
        bad = world.attach("q", 0)
        bad.deliver = bad.detached = fail  # type: ignore[method-assign, assignment]
        await world.publish("jobs", "2")
        bad.tie.grant(2, 1_000)
        await world.publish("jobs", "3")
        good.tie.grant(9, 1_000)
        assert sorted(await good.bodies(3)) == ["1", "2", "3"]

    async def test_an_answer_that_fails_harms_no_other(self, world: World) -> None:
        def fail(_: Receipt) -> None:
            raise RuntimeError("on purpose")

        world.engine.commit(Unit([world.draft("a", "1")], fail))
        await world.publish("a", "2")
        assert await world.log() == ["1", "2"]
