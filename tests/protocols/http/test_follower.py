"""What becomes of a reader that is behind: real hub and engine, a client whose socket fills as the test says."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from broker.auth.principal import LOCAL
from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.position import EARLIEST, LATEST, Start
from broker.core.subscription import Delivery
from broker.hub import Outgoing
from broker.protocols.http import follower as module
from broker.protocols.http.follower import UNLIMITED, WINDOW_MESSAGES, Follower, Slow
from tests.protocols.http.conftest import Door, until


@dataclass
class Client:
    """A Line that keeps what it was handed."""

    full: bool = False
    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[int, int]] = field(default_factory=list)
    errors: list[BrokerError | None] = field(default_factory=list)

    def hand(self, delivery: Delivery) -> None:
        self.rows += delivery.rows

    def thinned(self, left_out: int, offset: int) -> None:
        self.left_out.append((left_out, offset))

    def ended(self, error: BrokerError | None) -> None:
        self.errors.append(error)

    @property
    def offsets(self) -> list[int]:
        return [row[0] for row in self.rows]

    @property
    def bodies(self) -> list[str]:
        return [row[4].decode() for row in self.rows]


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, door: Door) -> None:
        self.door = door
        self.clock = Clock()
        door.engine.wall = self.clock
        self.client = Client()

    def follow(self, slow: Slow, start: Start = LATEST, credit: int = UNLIMITED) -> Follower:
        follower = Follower(self.client, slow, patience=10_000, wall=self.clock, credit=credit)
        follower.begin(self.door.hub.follow(LOCAL, ["#"], start, follower))
        return follower

    async def publish(self, *bodies: str, topic: str = "a", **options: Any) -> None:
        await self.door.hub.publish(LOCAL, [Outgoing(topic, body.encode(), options) for body in bodies])

    async def quiet(self) -> None:
        """Everything that was to happen by itself has happened."""
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def world(door: Door) -> World:
    return World(door)


async def test_one_that_waits_gets_everything_when_it_reads_again(world: World) -> None:
    follower = world.follow(Slow.WAIT)
    world.client.full = True
    count = 3 * WINDOW_MESSAGES
    for i in range(0, count, 100):
        await world.publish(*(str(n) for n in range(i, i + 100)))
    assert len(world.client.rows) == WINDOW_MESSAGES  # the window, not the backlog
    world.client.full = False
    follower.go_on()
    await until(lambda: len(world.client.rows) == count)
    assert world.client.bodies == [str(n) for n in range(count)]


async def test_one_that_falls_behind_is_dropped_with_a_true_position(world: World) -> None:
    follower = world.follow(Slow.DROP, credit=2)
    await world.publish("1", "2", "3", "4")
    await world.quiet()
    assert world.client.bodies == ["1", "2"]
    world.clock.now += 10.001
    follower.grant(1)
    await world.quiet()
    (error,) = world.client.errors
    assert error is not None
    assert error.code is Code.SLOW_READER
    assert world.client.bodies == ["1", "2"]
    assert follower.position == world.client.offsets[-1]
    assert not world.door.engine.attachments
    follower.stalled()
    assert len(world.client.errors) == 1


async def test_one_that_is_within_the_patience_is_not_dropped(world: World) -> None:
    follower = world.follow(Slow.DROP, credit=1)
    await world.publish("1", "2")
    world.clock.now += 9.999
    follower.grant(1)
    await world.quiet()
    assert (world.client.bodies, world.client.errors) == (["1", "2"], [])


async def test_reading_old_messages_is_not_being_slow(world: World) -> None:
    await world.publish("1", "2")
    world.clock.now += 3_600
    world.follow(Slow.DROP, EARLIEST)
    await world.publish("3")
    await world.quiet()
    assert (world.client.bodies, world.client.errors) == (["1", "2", "3"], [])


@pytest.mark.parametrize(("slow", "ends"), [(Slow.DROP, 1), (Slow.WAIT, 0), (Slow.THIN, 0)])
async def test_a_socket_that_stays_full_ends_only_who_wants_to_be_dropped(world: World, slow: Slow, ends: int) -> None:
    world.follow(slow).stalled()
    assert len(world.client.errors) == ends


async def test_one_that_is_thinned_gets_the_latest_of_each_topic_and_key_and_the_count(world: World) -> None:
    follower = world.follow(Slow.THIN)
    await world.publish("a0")
    world.client.full = True
    await world.publish("a1", "a2")
    await world.publish("b1", topic="b")
    await world.publish("k1", key="k")
    await world.publish("a3")
    await world.publish("k2", key="k")
    assert world.client.bodies == ["a0"]
    world.client.full = False
    follower.go_on()
    await world.publish("a4")
    assert world.client.bodies == ["a0", "b1", "a3", "k2", "a4"]
    assert world.client.offsets == sorted(world.client.offsets)
    assert world.client.left_out == [(3, world.client.offsets[3])]
    assert follower.position == world.client.offsets[-1]


async def test_one_that_keeps_up_is_not_thinned(world: World) -> None:
    world.follow(Slow.THIN)
    await world.publish("1", "2", "3")
    assert (world.client.bodies, world.client.left_out) == (["1", "2", "3"], [])


async def test_a_client_that_takes_one_at_a_time_is_handed_what_is_current(world: World) -> None:
    follower = world.follow(Slow.THIN, credit=1)
    for n in range(5):
        await world.publish(str(n))
    assert world.client.bodies == ["0"]
    follower.grant(1)
    assert world.client.bodies == ["0", "4"]
    assert [count for count, _ in world.client.left_out] == [3]


async def test_what_is_kept_for_a_thinned_reader_is_bounded_and_then_read_from_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_MESSAGES", 50)
    follower = world.follow(Slow.THIN)
    world.client.full = True
    count = 3 * WINDOW_MESSAGES
    for n in range(0, count, 100):
        await world.door.hub.publish(LOCAL, [Outgoing(f"a/{i}", b"x") for i in range(n, n + 100)])
    await world.quiet()
    assert follower._kept is not None
    assert len(follower._kept) <= WINDOW_MESSAGES + 50
    world.client.full = False
    follower.go_on()
    await until(lambda: len(world.client.rows) == count)
    assert world.client.left_out == []


async def test_credit_is_kept_to(world: World) -> None:
    follower = world.follow(Slow.WAIT, credit=0)
    await world.publish("1", "2", "3")
    await world.quiet()
    assert world.client.bodies == []
    follower.grant(2)
    await world.quiet()
    assert world.client.bodies == ["1", "2"]


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(BrokerError, match="wait, drop, thin") as refused:
        Slow.of("throw")
    assert refused.value.code is Code.BAD_OPTION
