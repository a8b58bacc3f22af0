"""Queues: who gets which message, and what a settle makes of it (promise 4 and issue of credit, promise 5)."""

import asyncio
from typing import Any

import pytest

from broker.core.errors import BrokerError, Code
from broker.core.message import Message, unpack_meta
from broker.core.subscription import Outcome
from broker.engine.base import Settle, Unit
from tests.engine.world import World

RELEASE, RETRY, REJECT, ACK = Outcome.RELEASE, Outcome.RETRY, Outcome.REJECT, Outcome.ACK


class TestHandingOut:
    async def test_each_message_goes_to_one_of_the_consumers(self, world: World) -> None:
        workers = [await world.queue("jobs"), world.attach("q"), world.attach("q")]
        for i in range(10):
            await world.publish("jobs", *[f"{i}.{n}" for n in range(9)])
        await world.quiet()
        offsets = [offset for worker in workers for offset in worker.offsets]
        assert sorted(offsets) == [row[0] for row in (await world.read()).rows]
        assert all(worker.offsets for worker in workers)

    async def test_every_subscription_gets_its_own_copy_once(self, world: World) -> None:
        first = await world.queue("jobs", "+", "#")
        await world.subscribe("other", "jobs")
        second = world.attach("other")
        await world.publish("jobs", "1", "2")
        await world.quiet()
        assert first.waiting == second.waiting == ["1", "2"]

    async def test_filters_choose(self, world: World) -> None:
        worker = await world.queue("orders/+/new", "users/#")
        for topic in ("orders/1/new", "orders/1/old", "users", "users/a/b", "user", "$dead/x"):
            await world.publish(topic, topic)
        await world.quiet()
        assert worker.waiting == ["orders/1/new", "users", "users/a/b"]

    async def test_an_error_that_is_no_text_stops_nobody(self, world: World) -> None:
        worker = await world.queue("jobs")
        await world.publish("jobs", "1", "2")
        rows = await worker.take(2)
        worker.settle(Outcome.RETRY, rows[:1], delay=0, error="half a pair: \ud800")
        await world.settle(Outcome.REJECT, rows[1][0], error="\udcff")
        await world.quiet()
        assert [row[0] for row in await worker.take(1)] == [rows[0][0]]
        assert await world.log("$dead/q") == ["2"]

    async def test_without_credit_nothing_comes(self, world: World) -> None:
        worker = await world.queue("jobs", messages=0)
        await world.publish("jobs", "1")
        await world.quiet()
        assert not worker.deliveries
        assert world.info().ready == 1

    async def test_messages_never_exceed_credit(self, world: World) -> None:
        worker = await world.queue("jobs", messages=3)
        await world.publish("jobs", *"abcdefgh")
        await world.quiet()
        assert worker.waiting == ["a", "b", "c"]
        rows = await worker.take(3)
        worker.ack(rows)
        await world.quiet()
        assert worker.waiting == []
        worker.tie.grant(2, 0)
        await world.quiet()
        assert worker.waiting == ["d", "e"]

    async def test_bytes_never_exceed_credit(self, world: World) -> None:
        await world.subscribe("q", "jobs")
        early = world.attach("q", 100, 250)
        await world.publish("jobs", *[bytes([65 + i]) * 100 for i in range(6)])
        await world.quiet()
        assert len(early.rows) == 2
        early.tie.grant(0, 250)
        await world.quiet()
        assert len(early.rows) == 5
        late = world.attach("q", 100, 99)
        await world.quiet()
        assert [row[4][:1] for row in late.rows] == [b"F"]

    async def test_a_message_larger_than_all_bytes_granted_comes_alone(self, world: World) -> None:
        await world.subscribe("q", "jobs")
        worker = world.attach("q", 10, 100)
        await world.publish("jobs", b"x" * 5_000, b"y" * 5_000)
        await world.quiet()
        assert [row[4][:1] for row in worker.rows] == [b"x"]
        worker.ack(worker.rows)
        worker.tie.grant(1, 5_000)
        await world.quiet()
        assert [row[4][:1] for row in worker.rows] == [b"x", b"y"]

    async def test_one_call_hands_over_what_one_commit_brought(self, world: World) -> None:
        worker = await world.queue("jobs")
        await world.publish("jobs", *map(str, range(500)))
        await world.quiet()
        assert len(worker.deliveries) == 1
        assert worker.waiting == list(map(str, range(500)))

    async def test_a_backlog_comes_in_order_with_headers_and_all(self, world: World) -> None:
        await world.subscribe("q", "jobs")
        await world.publish("jobs", *map(str, range(3_000)), content_type="text/plain")
        await world.restart()
        worker = world.attach("q")
        assert await worker.bodies(3_000) == list(map(str, range(3_000)))
        assert unpack_meta(worker.rows[-1][3]) == {"content_type": "text/plain"}
        assert worker.ack(worker.rows) == []
        await world.publish("jobs", "live")
        assert await worker.bodies(1) == ["live"]

    @pytest.mark.parametrize("options", [{}, {"ordered": True}, {"fair": True}])
    async def test_credit_is_used_up_without_waiting_for_a_settle(self, world: World, options: dict[str, Any]) -> None:
        """However many are ready at once: from before the consumer came, and from one large unit."""
        await world.subscribe("q", "jobs", **options)
        drafts = [world.draft("jobs", str(n), key=f"k{n}", priority=n % 2) for n in range(7_000)]
        await world.commit(Unit(drafts))
        worker = world.attach("q", 20_000)
        assert {int(row[4]) for row in await worker.take(7_000)} == set(range(7_000))
        worker.ack(worker.rows)
        await world.commit(Unit(drafts))
        assert {int(row[4]) for row in await worker.take(7_000)} == set(range(7_000))

    async def test_large_bodies_come_by_the_bytes_granted(self, world: World) -> None:
        await world.subscribe("q", "jobs")
        for n in range(100):
            await world.publish("jobs", str(n).encode() + b"x" * 200_000)
        await world.restart()
        worker = world.attach("q", 1_000, 500_000)
        for n in range(0, 100, 2):
            rows = await worker.take(2)
            assert [row[4].rstrip(b"x") for row in rows] == [str(n).encode(), str(n + 1).encode()]
            assert worker.waiting == []
            worker.ack(rows)
            worker.tie.grant(2, sum(len(row[4]) for row in rows))

    async def test_a_subscription_begins_where_it_says(self, world: World) -> None:
        await world.publish("jobs", "1")
        world.clock.move(10)
        second = await world.publish("jobs", "2")
        await world.subscribe("late", "jobs")
        await world.subscribe("all", "jobs", **{"from": "earliest"})
        await world.subscribe("place", "jobs", **{"from": second.offset})
        await world.subscribe("seen", "jobs", **{"from": f"{world.engine.epoch}.{second.offset - 1}"})
        await world.subscribe("time", "jobs", **{"from": "2026-11-23T09:00:05Z"})
        await world.publish("jobs", "3")
        workers = {name: world.attach(name) for name in ("late", "all", "place", "seen", "time")}
        await world.quiet()
        assert {name: "".join(worker.waiting) for name, worker in workers.items()} == {
            "late": "3",
            "all": "123",
            "place": "23",
            "seen": "23",
            "time": "23",
        }

    async def test_a_start_by_time_survives_a_crash(self, world: World) -> None:
        await world.publish("jobs", "1")
        world.clock.move(10)
        await world.publish("jobs", "2")
        await world.subscribe("q", "jobs", **{"from": "2026-11-23T09:00:05Z"})
        await world.crash()
        assert await world.attach("q").bodies(1) == ["2"]

    async def test_a_filter_holds_from_when_it_was_added_until_it_is_removed(self, world: World) -> None:
        await world.subscribe("q", "a", **{"from": "earliest"})
        await world.publish("a", "a1")
        await world.publish("b", "b1")
        await world.subscribe("q", "a", "b")
        await world.publish("b", "b2")
        await world.subscribe("q", "b")
        await world.publish("a", "a2")
        await world.publish("b", "b3")
        await world.restart()
        worker = world.attach("q")
        await world.quiet()
        assert worker.waiting == ["a1", "b2", "b3"]

    async def test_memory_topics_are_no_matter_of_queues_that_do_not_match(self, world: World) -> None:
        worker = await world.queue("#")
        await world.publish("$reply/x", "r")
        await world.publish("jobs", "1")
        assert await worker.bodies(1) == ["1"]


class TestLeases:
    async def test_nobody_else_is_handed_a_leased_message(self, world: World) -> None:
        worker = await world.queue(lease="30s")
        await world.publish("jobs", "1")
        await worker.take(1)
        other = world.attach("q")
        await world.advance(29.9)
        assert not other.rows

    async def test_a_lease_that_runs_out_costs_an_attempt_and_goes_to_another(self, world: World) -> None:
        worker = await world.queue(messages=1, lease="30s", retry={"initial": "0s"})
        await world.publish("jobs", "1")
        [row] = await worker.take(1)
        assert worker.attempts_of(row[0]) == (0, 0)
        other = world.attach("q")
        await world.advance(30.1)
        assert await other.bodies(1) == ["1"]
        assert other.attempts_of(row[0])[0] == 1
        assert other.lease_of(row[0]) != worker.lease_of(row[0])
        assert worker.ack([row]) == [row[0]]
        assert other.ack([row]) == []

    async def test_a_late_ack_counts_unless_the_message_was_leased_anew(self, world: World) -> None:
        worker = await world.queue(messages=1, lease="30s", retry={"initial": "1h"})
        await world.publish("jobs", "1")
        [row] = await worker.take(1)
        await world.advance(31)
        assert world.info().delayed == 1
        assert worker.ack([row]) == []
        await world.quiet()
        assert (world.info().delayed, world.info().acked) == (0, 1)
        await world.restart()
        assert world.info().ready == world.info().delayed == 0

    @pytest.mark.parametrize("outcome", [ACK, RETRY, REJECT])
    async def test_what_was_in_nobodys_hands_is_nobodys_to_settle(self, world: World, outcome: Outcome) -> None:
        worker = await world.queue(messages=1)
        await world.publish("jobs", "1", "2")
        [row] = await worker.take(1)
        assert worker.tie.settle(outcome, [row[0] + 1]) == [row[0] + 1]
        assert await world.settle(outcome, row[0] + 1, lease=worker.lease_of(row[0])) == [("q", row[0] + 1)]
        assert worker.settle(RELEASE, [row]) == []
        await world.quiet()
        await world.crash()
        assert world.info().ready == 2

    @pytest.mark.parametrize("outcome", [ACK, REJECT])
    async def test_a_settle_over_another_connection_counts_unless_the_message_was_leased_anew(
        self, world: World, outcome: Outcome
    ) -> None:
        """The worker's connection broke, or the daemon did: it works on, comes back and settles."""
        worker = await world.queue(messages=3)
        await world.publish("jobs", "1", "2", "3")
        first, second, third = await worker.take(3)
        worker.tie.detach(lost=True)
        back = world.attach("q", 0)
        assert back.settle(outcome, [first]) == []
        await world.quiet()
        await world.crash()
        back = world.attach("q", 0)
        assert back.settle(outcome, [second]) == []
        other = world.attach("q", 1)
        assert (await other.take(1))[0][0] == third[0]
        assert back.settle(outcome, [third]) == [third[0]]

    async def test_a_late_release_of_what_is_delayed_holds_over_a_crash(self, world: World) -> None:
        worker = await world.queue(messages=1, retry={"initial": "1h"})
        await world.publish("jobs", "1")
        [row] = await worker.take(1)
        worker.settle(Outcome.RETRY, [row])
        await world.quiet()
        assert world.info().delayed == 1
        assert worker.settle(Outcome.RELEASE, [row]) == []
        await world.quiet()
        await world.crash()
        assert (world.info().delayed, world.info().ready) == (0, 1)

    async def test_extending_keeps_a_lease(self, world: World) -> None:
        worker = await world.queue(lease="30s")
        await world.publish("jobs", "1", "2")
        first, second = await worker.take(2)
        await world.advance(20)
        assert list(worker.tie.extend([first[0]], 30_000)) == []
        other = world.attach("q")
        await world.advance(15)
        assert world.info().leased == 1
        assert list(worker.tie.extend([second[0], 999_999], 30_000)) == [second[0], 999_999]
        await world.advance(14.9)
        assert first[0] not in other.offsets
        await world.advance(1)
        assert world.info().delayed + world.info().leased == 2

    async def test_extending_can_shorten(self, world: World) -> None:
        worker = await world.queue(messages=1, lease="1h", retry={"initial": "0s"})
        await world.publish("jobs", "1")
        [row] = await worker.take(1)
        other = world.attach("q")
        await world.advance(1)  # the engine knows of the hour
        worker.tie.extend([row[0]], 1_000)
        await world.advance(1.1)
        assert await other.bodies(1) == ["1"]


class TestSettling:
    async def test_an_ack_ends_it(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1", "2", "3")
        rows = await worker.take(3)
        assert worker.ack([rows[1]]) == []
        assert worker.ack([rows[1]]) == [rows[1][0]]
        await world.quiet()
        await world.crash()
        worker = world.attach("q")
        assert await worker.bodies(2) == ["1", "3"]

    async def test_release_returns_it_at_once_and_costs_nothing(self, world: World) -> None:
        worker = await world.queue(messages=1)
        await world.publish("jobs", "1")
        for _ in range(30):
            [row] = await worker.take(1)
            assert worker.attempts_of(row[0]) == (0, 0)
            assert worker.settle(RELEASE, [row]) == []
            worker.tie.grant(1, 100)
        assert await worker.bodies(1) == ["1"]

    async def test_retry_waits_as_told(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1")
        [row] = await worker.take(1)
        assert worker.settle(RETRY, [row], delay=5_000, error="boom") == []
        await world.advance(4.9)
        assert worker.waiting == []
        assert world.info().delayed == 1
        await world.advance(0.2)
        assert await worker.bodies(1) == ["1"]
        assert worker.attempts_of(row[0])[0] == 1

    async def test_retry_follows_the_policy_with_its_jitter(self, world: World) -> None:
        world.clock.luck = 1.0
        worker = await world.queue(retry={"initial": "10s", "factor": 3, "jitter": 0.5, "cap": "40s"})
        await world.publish("jobs", "1")
        for wait in (15, 45, 60, 60):
            [row] = await worker.take(1)
            worker.settle(RETRY, [row])
            await world.advance(wait - 0.1)
            assert worker.waiting == []
            await world.advance(0.2)
        assert await worker.bodies(1) == ["1"]

    async def test_retry_with_no_delay_is_at_once(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1")
        worker.settle(RETRY, await worker.take(1), delay=0)
        assert await worker.bodies(1) == ["1"]

    async def test_a_retrys_delay_and_attempts_survive_a_crash(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1")
        [row] = await worker.take(1)
        worker.settle(RETRY, [row], delay=60_000, error="boom")
        await world.quiet()
        await world.crash()
        worker = world.attach("q")
        await world.advance(59)
        assert worker.waiting == []
        await world.advance(2)
        assert await worker.bodies(1) == ["1"]
        assert worker.attempts_of(row[0])[0] == 1

    async def test_settling_in_a_unit_tells_what_came_too_late(self, world: World) -> None:
        worker = await world.queue(messages=2)
        await world.publish("jobs", "1", "2")
        first, second = await worker.take(2)
        assert await world.settle(ACK, first[0], lease=worker.lease_of(first[0])) == []
        assert await world.settle(ACK, first[0], lease=worker.lease_of(first[0])) == [("q", first[0])]
        assert await world.settle(ACK, second[0], lease=worker.lease_of(second[0]) + 999) == [("q", second[0])]
        assert await world.settle(ACK, second[0]) == []
        assert await world.settle(ACK, 999_999) == [("q", 999_999)]
        assert world.info().acked == 2

    async def test_a_unit_that_publishes_for_a_lost_lease_does_nothing(self, world: World) -> None:
        """Else two workers of one job could both publish its result."""
        worker = await world.queue(messages=1)
        await world.publish("jobs", "1")
        [row] = await worker.take(1)
        unit = Unit([world.draft("results", "r")], settles=[Settle("q", ACK, row[0], worker.lease_of(row[0]) + 1)])
        with pytest.raises(BrokerError) as refusal:
            await world.commit(unit)
        assert refusal.value.code is Code.LEASE_LOST
        assert await world.log("results") == []
        assert worker.ack([row]) == []

    async def test_any_outcome_may_be_settled_in_a_unit(self, world: World) -> None:
        worker = await world.queue(messages=3)
        await world.publish("jobs", "released", "retried", "rejected")
        rows = await worker.take(3)
        outcomes = (RELEASE, RETRY, REJECT)
        settles = [
            Settle("q", outcome, row[0], worker.lease_of(row[0]), delay=60_000, error="e")
            for outcome, row in zip(outcomes, rows, strict=True)
        ]
        assert not (await world.commit(Unit(settles=settles))).lost
        await world.quiet()
        info = world.info()
        assert (info.ready, info.delayed, info.leased, info.dead) == (1, 1, 0, 1)
        assert await world.log("$dead/q") == ["rejected"]

    async def test_settling_for_a_subscription_that_is_gone_comes_too_late(self, world: World) -> None:
        assert await world.settle(ACK, 1, "nobody") == [("nobody", 1)]

    async def test_after_a_restart_what_was_leased_is_ready_and_a_late_settle_counts(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1", "2")
        first, second = await worker.take(2)
        lease = worker.lease_of(first[0])
        world.clock.move(0.001)
        await world.crash()
        assert world.info().ready == 2
        assert await world.settle(ACK, first[0], lease=lease) == []
        worker = world.attach("q")
        assert await worker.bodies(1) == ["2"]
        assert worker.lease_of(second[0]) != lease
        assert await world.settle(ACK, second[0], lease=lease) == [("q", second[0])]
        assert worker.attempts_of(second[0]) == (0, 0)

    async def test_leaving_makes_ready_what_was_leased(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1", "2")
        rows = await worker.take(2)
        worker.ack(rows[:1])
        worker.tie.detach()
        worker.tie.detach()
        other = world.attach("q")
        assert await other.bodies(1) == ["2"]
        assert other.attempts_of(rows[1][0]) == (0, 0)
        await world.publish("jobs", "3")
        assert await other.bodies(1) == ["3"]
        assert worker.waiting == []

    async def test_settles_nobody_awaits_reach_the_disk_by_themselves(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", *map(str, range(100)))
        worker.ack(await worker.take(100))
        await world.restart()
        assert world.info().ready == 0


class TestFailures:
    async def test_too_many_attempts_end_in_dead_letters_with_their_history(self, world: World) -> None:
        worker = await world.queue(messages=10, lease="30s", retry={"max_attempts": 3, "initial": "1s", "jitter": 0})
        await world.publish("jobs", "bad", key="k", headers={"a": "b"})
        first = (await worker.take(1))[0]
        worker.settle(RETRY, [first], error="first")
        await world.advance(1.1)
        worker.settle(RELEASE, await worker.take(1))
        await worker.take(1)
        await world.advance(30.1)
        await world.advance(2.1)
        worker.settle(RETRY, await worker.take(1), error="third")
        await world.quiet()
        [dead] = (await world.read("$dead/q")).rows
        message = Message.of(dead, world.engine.epoch)
        assert (message.topic, message.key, message.headers, message.body) == ("jobs", "k", {"a": "b"}, b"bad")
        assert dead[1] == "$dead/q"
        assert len(message.history) == 3
        assert [entry.get("error") for entry in message.history][::2] == ["first", "third"]
        assert [entry["at"] for entry in message.history] == sorted(entry["at"] for entry in message.history)
        info = world.info()
        assert (info.ready, info.leased, info.delayed, info.dead, info.dead_letters) == (0, 0, 0, 1, 1)
        await world.restart()
        info = world.info()
        assert (info.ready, info.dead_letters) == (0, 1), "a dead letter outlives the daemon"

    async def test_a_rejected_message_goes_at_once(self, world: World) -> None:
        worker = await world.queue()
        receipt = await world.publish("jobs", "bad", id="i")
        worker.settle(REJECT, await worker.take(1), error="not mine")
        await world.quiet()
        await world.crash()
        [dead] = (await world.read("$dead/q")).rows
        message = Message.of(dead, world.engine.epoch)
        assert (message.id, message.topic) == ("i", "jobs")
        assert message.history[-1]["error"] == "not mine"
        assert message.source is not None
        assert message.source["offset"] == receipt.offset
        assert world.info().ready == 0

    async def test_dead_letters_can_be_watched_like_any_topic(self, world: World) -> None:
        worker = await world.queue()
        await world.subscribe("morgue", "$dead/#")
        watcher = world.attach("morgue")
        await world.publish("jobs", "bad")
        worker.settle(REJECT, await worker.take(1))
        assert await watcher.bodies(1) == ["bad"]

    async def test_redrive_puts_the_oldest_back_into_this_queue_alone(self, world: World) -> None:
        worker = await world.queue("jobs", messages=100)
        await world.subscribe("other", "jobs")
        other = world.attach("other")
        await world.publish("jobs", "1", "2", "3", key="k")
        worker.settle(REJECT, await worker.take(3), error="no")
        await world.quiet()
        assert world.info().dead_letters == 3
        assert await world.engine.redrive("q", 2) == 2
        assert world.info().dead_letters == 1
        rows = await worker.take(2)
        seen = [Message.of(row, world.engine.epoch) for row in rows]
        assert [(m.body, m.topic, m.key) for m in seen] == [(b"1", "jobs", "k"), (b"2", "jobs", "k")]
        assert [worker.attempts_of(row[0]) for row in rows] == [(0, 0)] * 2
        assert await other.bodies(3) == ["1", "2", "3"]
        await world.quiet()
        assert other.waiting == []
        await world.crash()
        worker = world.attach("q")
        assert await worker.bodies(2) == ["1", "2"]
        worker.ack(worker.rows)
        assert await world.engine.redrive("q", 100) == 1
        assert await worker.bodies(1) == ["3"]
        assert await world.engine.redrive("q", 100) == 0

    async def test_a_redriven_message_that_dies_again_keeps_its_whole_history(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1")
        for error in ("first", "second"):
            worker.settle(REJECT, await worker.take(1), error=error)
            await world.quiet()
            assert await world.engine.redrive("q", 10) == 1
        [row] = await worker.take(1)
        message = Message.of(row, world.engine.epoch)
        assert [entry["error"] for entry in message.history] == ["first", "second"]
        assert message.topic == "jobs"

    async def test_purged_dead_letters_are_gone_for_good_and_nobodys_else(self, world: World) -> None:
        worker = await world.queue("jobs", messages=100)
        await world.publish("jobs", "1", "2", "3", "4")
        worker.settle(REJECT, await worker.take(3), error="no")
        await world.quiet()
        assert await world.engine.purge_dead("q", 2) == 2
        await world.crash()
        assert [row[4] for row in (await world.read("$dead/q")).rows] == [b"3"]
        assert await world.engine.purge_dead("q", 100) == 1
        assert await world.engine.purge_dead("q", 100) == 0
        assert world.info().dead_letters == 0
        assert await world.attach("q").bodies(1) == ["4"]
        assert len((await world.read("jobs")).rows) == 4

    async def test_two_who_redrive_at_once_bring_each_letter_back_once(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", *"12345")
        worker.settle(REJECT, await worker.take(5))
        await world.quiet()
        await world.restart()
        worker = world.attach("q")
        moved = await asyncio.gather(world.engine.redrive("q", 10), world.engine.redrive("q", 10))
        assert sorted(moved) == [0, 5]
        await world.quiet()
        assert worker.waiting == ["1", "2", "3", "4", "5"]

    async def test_a_long_history_does_not_stop_a_redrive(self, world: World) -> None:
        worker = await world.queue(retry={"max_attempts": 45, "initial": "0s"})
        await world.publish("jobs", "1")
        for _ in range(2):
            for _ in range(45):
                worker.settle(RETRY, await worker.take(1), delay=0, error="e" * 1_000)
            await world.quiet()
            assert await world.engine.redrive("q", 10) == 1
        assert await worker.bodies(1) == ["1"]

    async def test_redriving_a_stream_or_nobody_is_refused(self, world: World) -> None:
        await world.subscribe("s", "jobs", kind="stream")
        for name, code in (("s", Code.WRONG_KIND), ("nobody", Code.UNKNOWN_SUBSCRIPTION)):
            with pytest.raises(BrokerError) as refusal:
                await world.engine.redrive(name, 1)
            assert refusal.value.code is code
            with pytest.raises(BrokerError) as refusal:
                await world.engine.purge_dead(name, 1)
            assert refusal.value.code is code

    async def test_a_message_that_kills_its_workers_ends_in_dead_letters(self, world: World) -> None:
        await world.subscribe("q", "jobs", max_deliveries=3)
        await world.publish("jobs", "poison", "innocent")
        for n in range(3):
            worker = world.attach("q")
            rows = await worker.take(2)
            assert worker.attempts_of(rows[0][0]) == (0, n)
            worker.tie.started([rows[0][0]])
            worker.tie.detach(lost=True)
            await world.quiet()
        assert await world.log("$dead/q") == ["poison"]
        worker = world.attach("q")
        [row] = await worker.take(1)
        assert row[4] == b"innocent"
        assert worker.attempts_of(row[0]) == (0, 0)

    async def test_going_in_good_order_counts_against_nothing(self, world: World) -> None:
        await world.subscribe("q", "jobs", max_deliveries=2)
        await world.publish("jobs", "1")
        for _ in range(5):
            worker = world.attach("q")
            [row] = await worker.take(1)
            assert worker.attempts_of(row[0]) == (0, 0)
            worker.tie.started([row[0]])
            worker.tie.detach()
        await world.restart()
        assert world.info().ready == 1

    async def test_lost_deliveries_are_counted_across_a_crash(self, world: World) -> None:
        await world.subscribe("q", "jobs", max_deliveries=2)
        await world.publish("jobs", "poison")
        for _ in range(2):
            worker = world.attach("q")
            [row] = await worker.take(1)
            worker.tie.started([row[0]])
            worker.tie.detach(lost=True)
            await world.quiet()
            await world.crash()
        assert await world.log("$dead/q") == ["poison"]


class TestCare:
    """What operators do to a queue."""

    async def test_pause_stops_handing_out_across_a_restart(self, world: World) -> None:
        worker = await world.queue()
        await world.engine.pause("q", True)
        await world.publish("jobs", "1")
        await world.quiet()
        assert worker.waiting == []
        await world.crash()
        assert world.info().paused
        worker = world.attach("q")
        await world.publish("jobs", "2")
        await world.quiet()
        assert worker.waiting == []
        await world.engine.pause("q", False)
        assert await worker.bodies(2) == ["1", "2"]

    async def test_what_is_in_hand_may_be_settled_while_paused(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1")
        rows = await worker.take(1)
        await world.engine.pause("q", True)
        assert worker.ack(rows) == []

    async def test_purge_settles_all_but_what_is_in_hand(self, world: World) -> None:
        worker = await world.queue(messages=2)
        await world.publish("jobs", *map(str, range(10)))
        first, second = await worker.take(2)
        worker.settle(RETRY, [second], delay=60_000)
        assert await world.engine.purge("q") == 9
        assert await world.engine.purge("q") == 0
        await world.crash()
        worker = world.attach("q")
        assert await worker.bodies(1) == ["0"]
        assert first[0] == worker.offsets[0]
        await world.advance(61)
        assert worker.waiting == []

    async def test_peek_shows_the_oldest_and_touches_nothing(self, world: World) -> None:
        worker = await world.queue(messages=1)
        await world.publish("jobs", "1", "2", "3")
        await worker.take(1)
        for _ in range(2):
            assert [row[4] for row in await world.engine.peek("q", 2)] == [b"1", b"2"]
        rows = await world.engine.peek("q", 100)
        assert [row[4] for row in rows] == [b"1", b"2", b"3"]
        assert await world.engine.peek("q", 100, after=rows[0][0]) == rows[1:]
        assert await world.engine.peek("q", 100, max_bytes=2) == rows[:2]
        assert await world.engine.peek("q", 100, after=rows[1][0], max_bytes=0) == rows[2:]
        info = world.info()
        assert (info.ready, info.leased) == (2, 1)
        worker.tie.grant(1, 100)
        [row] = await worker.take(1)
        assert worker.attempts_of(row[0]) == (0, 0)

    async def test_info_counts(self, world: World) -> None:
        worker = await world.queue("jobs", messages=4, retry={"jitter": 0})
        await world.publish("jobs", *map(str, range(10)))
        rows = await worker.take(4)
        worker.ack(rows[:1])
        worker.settle(RETRY, rows[1:2], delay=60_000)
        world.clock.move(1)
        await world.quiet()
        info = world.info()
        assert (info.ready, info.leased, info.delayed, info.consumers) == (6, 2, 1, 1)
        assert (info.acked, info.retried) == (1, 1)
        assert info.oldest_at == world.clock.now_ms - 1_000
        assert [i.spec.name for i in world.engine.subscriptions()] == ["q"]

    async def test_deleting_lets_consumers_go_and_forgets(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "1")
        await worker.take(1)
        await world.engine.delete_subscription("q")
        assert len(worker.errors) == 1
        for call in (lambda: world.attach("q"), lambda: world.info("q")):
            with pytest.raises(BrokerError) as refusal:
                call()
            assert refusal.value.code is Code.UNKNOWN_SUBSCRIPTION
        for awaited in (world.engine.delete_subscription("q"), world.engine.pause("q", True), world.engine.purge("q")):
            with pytest.raises(BrokerError) as refusal:
                await awaited
            assert refusal.value.code is Code.UNKNOWN_SUBSCRIPTION
        await world.restart()
        assert world.engine.subscriptions() == []
        assert await world.subscribe("q", "jobs", **{"from": "earliest"})
        assert await world.attach("q").bodies(1) == ["1"]

    async def test_putting_again_changes_and_keeps_progress(self, world: World) -> None:
        assert await world.subscribe("q", "jobs", lease="30s") is True
        worker = world.attach("q", 1)
        await world.publish("jobs", "1", "2")
        worker.ack(await worker.take(1))
        assert await world.subscribe("q", "jobs", lease="60s") is False
        assert world.info().spec.lease == 60_000
        await world.restart()
        assert world.info().spec.lease == 60_000
        worker = world.attach("q", 1)
        assert await worker.bodies(1) == ["2"]

    async def test_a_new_setting_reaches_consumers_that_are_there(self, world: World) -> None:
        worker = await world.queue(messages=5)
        assert await world.subscribe("q", "jobs", "more") is False
        await world.publish("more", "1")
        assert await worker.bodies(1) == ["1"]

    async def test_changes_of_one_subscription_come_one_after_the_other(self, world: World) -> None:
        """Creating it reads the log, here for keys, while others change or delete it."""
        await world.publish("a", "1", "2", key="k")
        earliest = {"from": "earliest"}
        await asyncio.gather(world.subscribe("q", "a", **earliest), world.subscribe("q", "a", "b", **earliest))
        await asyncio.gather(world.subscribe("gone", "a", **earliest), world.engine.delete_subscription("gone"))
        assert [info.spec.name for info in world.engine.subscriptions()] == ["q"]
        await world.restart()
        assert [info.spec.name for info in world.engine.subscriptions()] == ["q"]
        assert world.info().spec.topics == ("a", "b")

    async def test_a_worker_that_leaves_a_deleted_queue_brings_nothing_back(self, world: World) -> None:
        worker = await world.queue("a")
        await world.publish("a", *"12345")
        rows = await worker.take(5)
        worker.ack(rows[2:3])
        await world.engine.delete_subscription("q")
        worker.ack(rows[3:4])
        worker.tie.detach()
        await world.quiet()
        await world.restart()
        await world.subscribe("other", "a", **{"from": "earliest"})
        await world.crash()
        assert await world.attach("other").bodies(5) == ["1", "2", "3", "4", "5"]

    async def test_the_other_kind_is_a_conflict(self, world: World) -> None:
        await world.subscribe("q", "jobs")
        with pytest.raises(BrokerError) as refusal:
            await world.subscribe("q", "jobs", kind="stream")
        assert refusal.value.code is Code.CONFLICT

    async def test_a_stopping_engine_lets_consumers_go(self, world: World) -> None:
        worker = await world.queue()
        await world.restart()
        assert [error.code for error in worker.errors] == [Code.SHUTTING_DOWN]


class TestCaps:
    async def test_a_full_queue_refuses_its_publishers_and_no_others(self, world: World) -> None:
        worker = await world.queue("jobs", messages=1, max_messages=3)
        await world.publish("jobs", "1", "2", "3")
        with pytest.raises(BrokerError) as refusal:
            await world.publish("jobs", "4")
        assert refusal.value.code is Code.QUEUE_FULL
        await world.publish("other", "x")
        worker.ack(await worker.take(1))
        await world.publish("jobs", "4")
        assert await world.log("jobs") == ["1", "2", "3", "4"]

    async def test_a_cap_holds_within_one_commit_and_one_unit(self, world: World) -> None:
        await world.subscribe("q", "jobs", max_messages=3)
        with pytest.raises(BrokerError):
            await world.publish("jobs", *"abcd")
        units = [Unit([world.draft("jobs", str(i))], sender=i) for i in range(5)]
        answers = await asyncio.gather(*[world.commit(unit) for unit in units], return_exceptions=True)
        codes = [answer.code if isinstance(answer, BrokerError) else None for answer in answers]
        assert codes == [None] * 3 + [Code.QUEUE_FULL] * 2
        assert world.info().ready == 3

    async def test_bytes_are_capped_too(self, world: World) -> None:
        await world.subscribe("q", "jobs", max_bytes=250)
        await world.publish("jobs", b"x" * 100, b"x" * 100)
        with pytest.raises(BrokerError) as refusal:
            await world.publish("jobs", b"x" * 100)
        assert refusal.value.code is Code.QUEUE_FULL
        await world.restart()
        with pytest.raises(BrokerError):
            await world.publish("jobs", b"x" * 100)
        await world.publish("jobs", b"x" * 50)

    async def test_dropping_the_oldest_is_counted(self, world: World) -> None:
        await world.subscribe("q", "jobs", max_messages=3, overflow="drop_oldest")
        for i in range(10):
            await world.publish("jobs", str(i))
        assert world.info().dropped == 7
        await world.restart()
        assert await world.attach("q").bodies(3) == ["7", "8", "9"]

    async def test_dropping_by_bytes(self, world: World) -> None:
        await world.subscribe("q", "jobs", max_bytes=250, overflow="drop_oldest")
        for letter in "abcdef":
            await world.publish("jobs", letter * 100)
        assert world.info().dropped == 4
        assert [body[0] for body in await world.attach("q").bodies(2)] == ["e", "f"]

    async def test_a_queue_is_trimmed_from_its_oldest_message_on(self, world: World) -> None:
        await world.subscribe("q", "jobs", max_bytes=1_000, overflow="drop_oldest")
        for letter in "abcdef":
            await world.publish("jobs", letter * 100)
        assert world.engine.weight("q") == (6, 600)
        worker = world.attach("q", messages=1)
        await worker.take(1)
        assert await world.engine.trim("q", 250) == 4
        assert world.info().dropped == 4
        assert world.engine.weight("q") == (2, 200)
        await world.restart()
        assert world.engine.weight("q") == (2, 200)
        assert [body[0] for body in await world.attach("q").bodies(2)] == ["a", "f"]

    async def test_what_is_in_hand_is_not_dropped(self, world: World) -> None:
        worker = await world.queue("jobs", messages=1, max_messages=2, overflow="drop_oldest")
        await world.publish("jobs", "0")
        rows = await worker.take(1)
        for i in range(1, 6):
            await world.publish("jobs", str(i))
        assert worker.ack(rows) == []
        worker.tie.grant(10, 1_000)
        await world.quiet()
        assert worker.waiting[-1] == "5"
        assert len(worker.waiting) <= 2

    async def test_a_cap_holds_for_what_waits_behind_its_key_and_for_its_retry(self, world: World) -> None:
        worker = await world.queue("jobs", messages=1, max_messages=3, overflow="drop_oldest", ordered=True)
        await world.publish("jobs", "0", key="k")
        rows = await worker.take(1)
        for i in range(1, 6):
            await world.publish("jobs", str(i), key="k")
        assert world.info().dropped == 3
        assert worker.settle(Outcome.RETRY, rows, delay=60_000) == []
        await world.publish("jobs", "6", key="k")
        assert world.info().dropped == 4
        worker.tie.grant(10, 1_000)
        assert await worker.bodies(1) == ["4"]


class TestTimeToLive:
    async def test_an_expired_message_is_not_delivered(self, world: World) -> None:
        await world.subscribe("q", "jobs")
        await world.publish("jobs", "short", ttl=1_500)
        await world.publish("jobs", "long", ttl=60_000)
        await world.publish("jobs", "ever")
        await world.advance(2.1)
        info = world.info()
        assert (info.expired, info.ready) == (1, 2)
        assert await world.attach("q").bodies(2) == ["long", "ever"]

    async def test_it_holds_below_a_second(self, world: World) -> None:
        if not world.engine.capabilities.sub_second_ttl:
            return
        await world.subscribe("q", "jobs")
        await world.publish("jobs", "short", ttl=100)
        await world.publish("jobs", "long", ttl=300)
        world.clock.move(0.2)
        worker = world.attach("q")
        assert await worker.bodies(1) == ["long"]
        await world.quiet()
        assert worker.waiting == []

    async def test_time_to_live_runs_on_while_nobody_serves(self, world: World) -> None:
        await world.subscribe("q", "jobs")
        await world.publish("jobs", "short", ttl=1_000)
        await world.publish("jobs", "long", ttl=100_000)
        await world.engine.stop()
        world.clock.move(5)
        await world.start()
        worker = world.attach("q")
        assert await worker.bodies(1) == ["long"]
        await world.quiet()
        assert worker.waiting == []
        assert world.info().ready == 0

    async def test_what_is_in_hand_may_be_finished(self, world: World) -> None:
        worker = await world.queue(lease="1h")
        await world.publish("jobs", "short", ttl=1_000)
        rows = await worker.take(1)
        await world.advance(5)
        assert worker.ack(rows) == []
        await world.quiet()
        assert world.info().acked == 1

    async def test_what_expired_in_hand_does_not_come_again(self, world: World) -> None:
        worker = await world.queue(lease="1h")
        await world.publish("jobs", "short", ttl=1_000)
        rows = await worker.take(1)
        await world.advance(5)
        worker.settle(RELEASE, rows)
        await world.quiet()
        await world.advance(5)
        assert worker.waiting == []
        assert world.info().ready == 0

    async def test_an_expired_retry_does_not_come_again(self, world: World) -> None:
        worker = await world.queue()
        await world.publish("jobs", "short", ttl=5_000)
        worker.settle(RETRY, await worker.take(1), delay=10_000)
        await world.advance(11)
        assert worker.waiting == []
        assert world.info().delayed == world.info().ready == 0


class TestSingleActive:
    async def test_one_consumer_works_and_the_next_takes_over(self, world: World) -> None:
        first = await world.queue("jobs", single_active=True)
        second, third = world.attach("q"), world.attach("q")
        await world.publish("jobs", "1", "2")
        rows = await first.take(2)
        first.ack(rows[:1])
        await world.publish("jobs", "3")
        await first.take(1)
        await world.quiet()
        assert second.waiting == third.waiting == []
        first.tie.detach()
        assert await second.bodies(2) == ["2", "3"]
        await world.quiet()
        assert third.waiting == []
