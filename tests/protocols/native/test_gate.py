"""A client that publishes faster than it may is slowed and told; its settles go on, and nothing is lost."""

from pathlib import Path
from typing import Any

import pytest

from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.limits import Limits
from broker.protocols.native import wire
from broker.protocols.native.gate import MAX_ASIDE
from tests.engine.world import World, open_world
from tests.protocols.native.client import Wire, make

HELLO = [wire.HELLO, 1, {"features": ["slowed"]}]


def hub_of(world: World, **limits: int) -> Hub:
    return Hub(world.engine, Limits(**limits), world.clock.wall, world.clock.monotonic)


def told(client: Wire, *kinds: int) -> list[Any]:
    return [frame for frame in client.heard if frame[0] in kinds]


def publish(client: Wire, first: int, count: int = 10, body: bytes = b"x") -> None:
    client.say([wire.PUBLISH, first, [["a", body]] * count])


async def passing(world: World, client: Wire, seconds: float) -> None:
    """Time goes by, and what is due is done."""
    for _ in range(round(seconds * 10)):
        world.clock.move(0.1)
        client.ring()
        await world.quiet()


async def confirmed(world: World, client: Wire) -> int:
    await world.quiet()
    return max([frame[1] for frame in told(client, wire.CONFIRM)], default=0)


async def test_what_is_too_fast_waits_and_is_then_taken_in_order(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world, hub_of(world, publish_messages_per_second=10))
        client.say(HELLO)
        for first in range(1, 60, 10):
            publish(client, first)
        assert await confirmed(world, client) == 20  # a second's worth, and the piece that went over it
        await passing(world, client, 0.9)
        assert await confirmed(world, client) == 20
        await passing(world, client, 0.2)
        assert await confirmed(world, client) == 60  # what was put aside is one piece
        assert client.session.hub.flow.blocked == 1
        await passing(world, client, 4)
        assert client.session.hub.flow.blocked == 0
        publish(client, 61)
        assert await confirmed(world, client) == 70
        assert not told(client, wire.REFUSE, wire.ERROR)


async def test_settles_and_questions_go_on_meanwhile(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        await world.publish("jobs", "1", "2")
        client = Wire(world, hub_of(world, publish_messages_per_second=1))
        client.say(HELLO, [wire.ATTACH, 1, "q", {"credit": 1}])
        publish(client, 1, 100)
        publish(client, 101, 100)
        await world.quiet()
        (delivered,) = told(client, wire.DELIVER)
        client.say([wire.SETTLE, 1, "ack", [delivered[3][0][0]], None, 7], [wire.CREDIT, 1, 1], [wire.PING, "there"])
        await world.quiet()
        assert told(client, wire.REPLY) == [[wire.REPLY, 7, []]]
        assert told(client, wire.PONG) == [[wire.PONG, "there"]]
        assert len(told(client, wire.DELIVER)) == 2
        assert world.engine.subscription("q").acked == 1
        assert await confirmed(world, client) == 100


async def test_when_much_was_put_aside_the_socket_is_not_read(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world, hub_of(world, publish_bytes_per_second=MAX_ASIDE))
        client.say(HELLO)
        publish(client, 1, 1, bytes(3 * MAX_ASIDE // 2))
        publish(client, 2, 1, bytes(MAX_ASIDE // 2))
        assert client.reading
        publish(client, 3, 1, bytes(MAX_ASIDE // 2))
        assert not client.reading
        await passing(world, client, 0.8)
        assert await confirmed(world, client) == 3
        assert client.reading


async def test_what_lasts_is_told_and_so_is_its_end(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world, publish_messages_per_second=10)
        client, older = Wire(world, hub), Wire(world, hub_of(world, publish_messages_per_second=10))
        client.say(HELLO)
        older.say([wire.HELLO, 1, {}])
        for one in (client, older):
            publish(one, 1, 50)
        await passing(world, client, 0.5)
        assert not told(client, wire.SLOWED)
        await passing(world, client, 2)
        (notice,) = told(client, wire.SLOWED)
        assert notice[1] == "rate_limited"
        assert "raise limits.publish_messages_per_second" in notice[2]
        await passing(world, client, 3)
        assert told(client, wire.SLOWED)[1:] == [[wire.SLOWED]]
        await passing(world, older, 1)
        assert not told(older, wire.SLOWED)


async def test_short_waits_again_and_again_are_told_as_one(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world, hub_of(world, publish_messages_per_second=10))
        client.say(HELLO)
        for first in range(1, 100, 5):
            publish(client, first, 5)
            await passing(world, client, 0.5)
        assert len(told(client, wire.SLOWED)) == 0  # just as fast as it may
        for first in range(101, 200, 5):
            publish(client, first, 5)
            await passing(world, client, 0.4)
        assert [len(frame) for frame in told(client, wire.SLOWED)] == [3]


async def test_memory_that_is_short_stops_reading_until_its_own_is_on_disk(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world, max_uncommitted=1 << 20)
        flood, modest = Wire(world, hub), Wire(world, hub)
        flood.say(HELLO)
        modest.say(HELLO)
        publish(modest, 1)
        publish(flood, 1, 3, bytes(1 << 19))
        assert (flood.reading, modest.reading, hub.flow.blocked) == (False, True, 1)
        assert hub.flow.status()["in_force"][0]["limit"] == "limits.max_uncommitted"
        publish(modest, 11)
        assert modest.reading
        await world.quiet()
        assert (flood.reading, hub.flow.blocked, hub.flow.uncommitted) == (True, 0, 0)
        assert not told(flood, wire.REFUSE)


async def test_who_goes_away_while_slowed_is_not_counted_on(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world, hub_of(world, publish_messages_per_second=1))
        client.say(HELLO)
        publish(client, 1, 100)
        publish(client, 101, 100)
        assert client.session.hub.flow.blocked == 1
        client.session.lost()
        await passing(world, client, 2)
        assert client.session.hub.flow.blocked == 0
        assert len(await world.log("a")) == 100


async def test_goodbye_comes_after_what_was_put_aside(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world, hub_of(world, publish_messages_per_second=10))
        client.say(HELLO)
        publish(client, 1, 20)
        publish(client, 21, 5)
        client.say([wire.GOODBYE])
        await world.quiet()
        assert not client.session.closed
        await passing(world, client, 1.2)
        assert client.session.closed
        assert await confirmed(world, client) == 25


async def test_settles_go_on_however_many_there_are_beside_a_little_that_was_put_aside(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        client = Wire(world, hub_of(world, publish_messages_per_second=1))
        client.say(HELLO, [wire.ATTACH, 1, "q"])
        publish(client, 1, 100)
        publish(client, 101, 1)  # put aside
        for _ in range(3):
            client.say([wire.SETTLE, 1, "ack", [1 << 60] * (MAX_ASIDE // 9)])
        assert client.reading
        assert client.session.kept < 100


async def test_what_is_put_aside_again_still_counts(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world, hub_of(world, publish_messages_per_second=10))
        client.say(HELLO)
        units = [[wire.UNIT, i, {"publish": [["a", bytes(MAX_ASIDE // 100)]] * 20}] for i in range(1, 9)]
        client.say(*units[:4])  # one a piece: after each it has to wait
        before = client.session.kept
        assert 0 < before < MAX_ASIDE
        await passing(world, client, 1.1)
        assert await confirmed(world, client) > 1
        assert 0 < client.session.kept < before
        client.say(*units[4:])
        assert client.session.kept > MAX_ASIDE
        assert not client.reading
        await passing(world, client, 20)
        assert await confirmed(world, client) == 8
        assert (client.reading, client.session.kept) == (True, 0)


async def test_who_is_dismissed_while_slowed_keeps_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world, hub_of(world, publish_messages_per_second=1))
        client.say(HELLO)
        publish(client, 1, 100)
        publish(client, 101, 100)
        aside = client.session.kept
        client.session.receive((1_000).to_bytes(4, "big") + bytes(500))  # half a frame
        assert client.session.kept == aside + 504
        client.session.dismiss(BrokerError(Code.DISMISSED))  # the socket ends when the client has read that
        assert client.session.kept == 0
        assert client.session.hub.flow.blocked == 0


@pytest.mark.parametrize("frame", [[wire.SETTLE, 1, "ack", [], None, 7], [wire.UNIT, 0, {}]], ids=["settle", "unit"])
async def test_what_is_next_to_nothing_piles_up_before_the_disk_as_little_as_what_is_large(
    tmp_path: Path, frame: list[Any]
) -> None:
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        hub = hub_of(world, max_uncommitted_per_connection=1 << 16)
        client = Wire(world, hub)
        client.say(HELLO, [wire.ATTACH, 1, "q"])
        frames = [[frame[0], i, *frame[2:]] if frame[0] == wire.UNIT else frame for i in range(1, 101)]
        client.say(*frames[:50])
        assert client.reading
        client.say(*frames[50:])
        assert not client.reading
        await world.quiet()
        assert client.reading
        assert len(told(client, wire.REPLY, wire.CONFIRM)) == 100
