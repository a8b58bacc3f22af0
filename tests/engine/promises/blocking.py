"""Queues that make their publishers wait for room: overflow `block`."""

import asyncio
from typing import Any

import pytest

from broker.core.errors import Code
from broker.core.subscription import Outcome
from broker.engine.base import Receipt, Sequences, Set, Settle, Unit
from tests.engine.world import PATIENCE, Worker, World

TIMEOUT = 5.0
"""Seconds after which who waits is refused."""


async def full_queue(world: World, **options: Any) -> Worker:
    """A queue of two messages, and a worker that holds the first."""
    worker = await world.queue("jobs", messages=1, overflow="block", **{"max_messages": 2, **options})
    await world.publish("jobs", "1", "2")
    return worker


def code_of(receipt: Receipt) -> Code | None:
    return receipt.error.code if receipt.error else None


class TestBlock:
    @pytest.fixture(autouse=True)
    def _able(self, world: World) -> None:
        if not world.engine.capabilities.blocking:
            pytest.skip("this engine makes no publisher wait")

    async def test_a_publisher_waits_until_there_is_room(self, world: World) -> None:
        worker = await full_queue(world)
        answer = world.answer(Unit([world.draft("jobs", "3")], sender="p"))
        await world.quiet()
        assert not answer.done()
        assert await world.log() == ["1", "2"]
        worker.ack(await worker.take(1))
        receipt = await answer
        assert receipt.error is None
        assert [row[0] for row in (await world.read("jobs")).rows][2] == receipt.offset
        worker.tie.grant(10, 1_000)
        assert await worker.bodies(2) == ["2", "3"]

    async def test_what_its_sender_hands_in_after_it_waits_too_and_keeps_its_order(self, world: World) -> None:
        worker = await full_queue(world)
        order: list[str] = []

        def hand_in(name: str, unit: Unit) -> None:
            unit.sender, unit.done = "p", lambda _: order.append(name)
            world.engine.commit(unit)

        hand_in("full", Unit([world.draft("jobs", "3")]))
        hand_in("other topic", Unit([world.draft("other", "a")]))
        hand_in("empty", Unit())
        hand_in("later", Unit(schedules=[world.later("other", "b", 60)]))
        await world.quiet()
        assert order == []
        await world.publish("other", "x", sender="another")
        worker.ack(await worker.take(1))
        await world.quiet()
        assert order == ["full", "other topic", "empty", "later"]
        assert await world.log() == ["1", "2", "x", "3", "a"]

    async def test_settles_alone_do_not_wait(self, world: World) -> None:
        worker = await full_queue(world)
        (row,) = await worker.take(1)
        answer = world.answer(Unit([world.draft("jobs", "3")], sender="p"))
        await world.quiet()
        assert not (await world.commit(Unit(settles=[Settle("q", Outcome.ACK, row[0])], sender="p"))).lost
        assert (await answer).error is None

    async def test_nobody_waits_for_ever(self, world: World) -> None:
        await full_queue(world)
        answer = world.answer(Unit([world.draft("jobs", "3")], sender="p"))
        after = world.answer(Unit([world.draft("other", "x")], sender="p"))
        await world.quiet()
        await world.advance(TIMEOUT - 1)
        assert not answer.done()
        world.clock.move(1)
        await world.engine.tick()
        error = (await asyncio.wait_for(answer, PATIENCE)).error
        assert error is not None
        assert error.code is Code.QUEUE_FULL
        assert "q holds 2" in error.text
        assert (await after).error is None
        assert await world.log() == ["1", "2", "x"]

    async def test_what_needs_more_room_waits_on(self, world: World) -> None:
        worker = await full_queue(world, max_messages=3)
        answer = world.answer(Unit([world.draft("jobs", "3"), world.draft("jobs", "4")], sender="p"))
        await world.quiet()
        assert not answer.done()
        worker.ack(await worker.take(1))
        assert (await answer).error is None
        assert world.info().lag == 3

    async def test_bytes_are_waited_for_too(self, world: World) -> None:
        worker = await world.queue("jobs", messages=1, overflow="block", max_bytes=250)
        await world.publish("jobs", b"x" * 100, b"x" * 100)
        answer = world.answer(Unit([world.draft("jobs", b"x" * 100)], sender="p"))
        await world.quiet()
        assert not answer.done()
        worker.ack(await worker.take(1))
        assert (await answer).error is None

    async def test_many_publishers_go_on_in_their_order_and_the_cap_holds(self, world: World) -> None:
        worker = await full_queue(world)
        answers = [world.answer(Unit([world.draft("jobs", str(i))], sender=i)) for i in range(3, 9)]
        for number in range(3, 9):
            await world.quiet()
            assert [answer.done() for answer in answers] == [i < number for i in range(3, 9)]
            worker.ack(await worker.take(1))
            worker.tie.grant(1, 1_000)
            assert world.info().lag <= 2
        await world.quiet()
        assert await world.log() == [str(i) for i in range(1, 9)]

    @pytest.mark.parametrize("how", ["purge", "delete", "raise", "drop"])
    async def test_room_comes_from_elsewhere(self, world: World, how: str) -> None:
        worker = await full_queue(world)
        answer = world.answer(Unit([world.draft("jobs", "3")], sender="p"))
        await world.quiet()
        if how == "purge":
            assert await world.engine.purge("q") == 1
        elif how == "delete":
            await world.engine.delete_subscription("q")
        elif how == "raise":
            await world.subscribe("q", "jobs", overflow="block", max_messages=3)
        else:
            await world.subscribe("q", "jobs", overflow="drop_oldest", max_messages=2)
        assert (await answer).error is None
        assert worker.waiting == ["1"]

    async def test_a_queue_that_refuses_does_so_at_once(self, world: World) -> None:
        await full_queue(world)
        await world.subscribe("strict", "jobs", overflow="refuse", max_messages=1)
        await world.engine.purge("q")
        answer = world.answer(Unit([world.draft("jobs", "3"), world.draft("jobs", "4")], sender="p"))
        assert code_of(await answer) is Code.QUEUE_FULL

    async def test_a_condition_is_asked_when_its_turn_comes(self, world: World) -> None:
        worker = await full_queue(world)
        sets = [Set("key", b"mine", expect=0)]
        answer = world.answer(Unit([world.draft("jobs", "3")], sender="p", sets=sets))
        await world.quiet()
        await world.commit(Unit(sets=[Set("key", b"theirs")], sender="another"))
        worker.ack(await worker.take(1))
        assert code_of(await answer) is Code.CONDITION_FAILED
        assert await world.log() == ["1", "2"]

    async def test_a_publishers_sequences_keep_their_order(self, world: World) -> None:
        await full_queue(world)
        first = world.answer(Unit([world.draft("jobs", "3")], sender="p", publisher=Sequences("p", 1, 1)))
        second = world.answer(Unit([world.draft("other", "x")], sender="p", publisher=Sequences("p", 2, 2)))
        await world.quiet()
        assert world.engine.publisher("p")[0] == 0
        await world.advance(TIMEOUT)
        assert code_of(await first) is Code.QUEUE_FULL
        assert (await second).error is None
        sequence, refused = world.engine.publisher("p")
        assert (sequence, [tuple(entry) for entry in refused]) == (2, [(1, 1, "queue_full")])

    async def test_who_waits_is_answered_when_the_engine_stops(self, world: World) -> None:
        await full_queue(world)
        answer = world.answer(Unit([world.draft("jobs", "3")], sender="p"))
        after = world.answer(Unit([world.draft("other", "x")], sender="p"))
        await world.quiet()
        await world.restart()
        assert code_of(await answer) is Code.QUEUE_FULL
        assert (await after).error is None
        assert await world.log() == ["1", "2", "x"]
