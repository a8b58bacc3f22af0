"""Messages that wait outside the log for their time."""

import asyncio

from broker.core.message import Message
from broker.engine.base import Unit, Waiting
from tests.engine.world import World

YEAR = 365.25 * 86_400


class TestSchedule:
    async def test_a_message_enters_the_log_when_it_is_due(self, world: World) -> None:
        worker = await world.queue("jobs", lease="1h")
        await world.advance(1)
        await world.commit(Unit(schedules=[world.later("jobs", "later", 60, key="k")]))
        await world.publish("jobs", "now")
        await world.advance(59)
        assert worker.waiting == ["now"]
        assert await world.log() == ["now"]
        await world.advance(2)
        rows = await worker.take(2)
        message = Message.of(rows[1], world.engine.epoch)
        assert (message.body, message.key) == (b"later", "k")
        assert message.published_at == world.clock.now_ms
        assert message.offset > rows[0][0]
        assert await world.engine.scheduled(10) == []

    async def test_what_waits_is_listed_soonest_first(self, world: World) -> None:
        later = [world.later("jobs", str(n), n, f"id{n}") for n in (50, 10, 30)]
        await world.commit(Unit(schedules=later))
        for _ in range(2):
            await world.advance(0)
            listed = await world.engine.scheduled(10)
            assert listed == [Waiting(s.id, s.due, "jobs") for s in (later[1], later[2], later[0])]
            assert world.engine.stats().scheduled == 3
            assert [s.id for s in await world.engine.scheduled(1)] == ["id10"]
            await world.restart()

    async def test_cancelling(self, world: World) -> None:
        await world.commit(Unit(schedules=[world.later("jobs", n, 60, n) for n in "abc"]))
        assert await world.engine.cancel("a") is True
        assert await world.engine.cancel("a") is False
        assert await world.engine.cancel("unknown") is False
        await world.advance(61)
        assert await world.log() == ["b", "c"]
        assert await world.engine.cancel("c") is False

    async def test_a_cancelled_id_can_be_scheduled_anew(self, world: World) -> None:
        await world.commit(Unit(schedules=[world.later("jobs", "first", 60, "i")]))
        assert await world.engine.cancel("i") is True
        await world.commit(Unit(schedules=[world.later("jobs", "second", 90, "i")]))
        await world.advance(91)
        assert await world.log() == ["second"]

    async def test_a_cancel_at_the_moment_it_is_due_tells_the_truth(self, world: World) -> None:
        for turns in range(8):
            await world.commit(Unit(schedules=[world.later("jobs", "1", 60, f"i{turns}")]))
            world.clock.move(61)
            before = len(await world.log())
            tick = asyncio.create_task(world.engine.tick())
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = await world.engine.cancel(f"i{turns}")
            await tick
            assert len(await world.log()) == before + (not cancelled)

    async def test_large_ones_due_at_once_come_in_pieces(self, world: World) -> None:
        bodies = [str(n) + "x" * 2_000_000 for n in range(5)]
        await world.commit(Unit(schedules=[world.later("jobs", body, 10, body[0]) for body in bodies]))
        await world.advance(10)
        assert len(await world.log()) < 5
        for _ in range(3):
            await world.advance(1)
        assert await world.log() == bodies

    async def test_what_became_due_while_stopped_comes_at_start(self, world: World) -> None:
        await world.commit(Unit(schedules=[world.later("jobs", "soon", 60), world.later("jobs", "late", 900)]))
        await world.subscribe("q", "jobs")
        copy = world.copy()
        await world.engine.stop()
        world.folder = copy
        world.clock.move(120)
        await world.start()
        await world.advance(0)
        assert await world.log() == ["soon"]
        assert await world.attach("q").bodies(1) == ["soon"]
        assert len(await world.engine.scheduled(10)) == 1

    async def test_there_is_no_upper_limit(self, world: World) -> None:
        await world.commit(Unit(schedules=[world.later("jobs", "far", 40 * YEAR)]))
        await world.advance(39 * YEAR)
        assert await world.log() == []
        await world.advance(2 * YEAR)
        assert await world.log() == ["far"]

    async def test_those_due_together_come_in_the_order_of_their_times(self, world: World) -> None:
        await world.commit(Unit(schedules=[world.later("jobs", str(n), n) for n in (3, 1, 2, 5, 4)]))
        await world.advance(10)
        assert await world.log() == ["1", "2", "3", "4", "5"]

    async def test_many_due_at_once(self, world: World) -> None:
        worker = await world.queue("jobs")
        await world.commit(Unit(schedules=[world.later("jobs", str(n), 10) for n in range(5_000)]))
        for _ in range(10):
            await world.advance(2)
        assert sorted(map(int, await worker.bodies(5_000))) == list(range(5_000))
        await world.crash()
        assert len(await world.log()) == 5_000

    async def test_only_what_concerns_the_caller_is_cancelled(self, world: World) -> None:
        await world.commit(Unit(schedules=[world.later(topic, topic, 10, "i") for topic in ("mine", "other")]))
        assert not await world.engine.cancel("i", lambda topic: topic == "third")
        assert await world.engine.cancel("i", lambda topic: topic == "mine")
        assert not await world.engine.cancel("i", lambda topic: topic == "mine")
        await world.advance(11)
        assert await world.log() == ["other"]

    async def test_scheduling_one_id_twice_stores_it_once(self, world: World) -> None:
        for seconds in (10, 20):
            await world.commit(Unit(schedules=[world.later("jobs", "1", seconds, "i")]))
        await world.advance(30)
        assert await world.log() == ["1"]

    async def test_it_waits_for_its_time_to_live_from_when_it_is_due(self, world: World) -> None:
        """The hub counts `ttl` from the due time; the engine delivers what has not expired by then."""
        worker = await world.queue("jobs")
        await world.commit(Unit(schedules=[world.later("jobs", "fresh", 60, ttl=90_000)]))
        await world.commit(Unit(schedules=[world.later("jobs", "stale", 60, ttl=30_000)]))
        await world.advance(61)
        assert await worker.bodies(1) == ["fresh"]
        await world.quiet()
        assert worker.waiting == []
