"""What one connection is promised: answers in their turn, credit that is passed on, an end that costs nothing."""

from pathlib import Path
from typing import Any

import pytest

from broker.auth.principal import MAX_TOPICS
from broker.engine.base import Unit
from broker.protocols.native import wire
from tests.engine.world import World, open_world
from tests.protocols.native.client import Wire, greeted, make

HELLO = [wire.HELLO, 1, {"publisher": "p"}]


def told(client: Wire, *kinds: int) -> list[Any]:
    return [frame for frame in client.heard if frame[0] in kinds]


async def publisher(world: World) -> Wire:
    client = Wire(world)
    client.say(HELLO)
    await world.quiet()
    return client


# Publishing


async def test_an_atomic_batch_is_confirmed_by_its_own_commit_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client, units, commit = await publisher(world), [], world.engine.commit

        def noted(unit: Unit) -> None:
            units.append(unit)
            commit(unit)

        monkeypatch.setattr(world.engine, "commit", noted)
        client.say(
            [wire.PUBLISH, 1, [["a", b"1"]]],
            [wire.PUBLISH, 2, [["a", b"2"], ["a", b"3"]], 1],
            [wire.PUBLISH, 4, [["a", b"4"]]],
        )
        parts = [unit.publisher for unit in units]
        assert [(p.first, p.last) for p in parts if p is not None] == [(1, 1), (2, 3), (4, 4)]
        await world.quiet()
        assert [frame[1] for frame in told(client, wire.CONFIRM)] == [1, 3, 4]


async def test_a_confirm_names_no_place_for_what_is_in_no_log(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await publisher(world)
        client.say([wire.PUBLISH, 1, [["$reply/a", b"1"], ["$reply/a", b"2"]]])
        await world.quiet()
        client.say(
            [wire.PUBLISH, 3, [["a", b"3"], ["$reply/a", b"4"], ["a", b"5", {"id": "x"}], ["a", b"5", {"id": "x"}]]]
        )
        await world.quiet()
        first, second = [row[0] for row in (await world.read()).rows]
        at = world.clock.now_ms
        assert [frame[1:] for frame in told(client, wire.CONFIRM)] == [
            [2, [], []],
            [6, [[3, 1, first, at], [5, 1, second, at]], [[6, second]]],
        ]


async def test_a_refusal_at_once_does_not_confirm_what_is_being_committed(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await publisher(world)
        client.say([wire.PUBLISH, 1, [["a", b"1"]]])
        world.engine.disk_low = "9 bytes are free"  # type: ignore[attr-defined]
        client.say([wire.PUBLISH, 2, [["a", b"2"]]])
        assert not told(client, wire.CONFIRM, wire.REFUSE)
        await world.quiet()
        answers = [frame[:4] for frame in told(client, wire.CONFIRM, wire.REFUSE)]
        assert [answer[:2] for answer in answers] == [[wire.CONFIRM, 1], [wire.REFUSE, 2], [wire.CONFIRM, 2]]
        assert answers[1][2:] == [1, "disk_low"]
        again = await publisher(world)
        welcome = told(again, wire.WELCOME)[0][2]
        assert (welcome["sequence"], welcome["refused"]) == (2, [[2, 1, "disk_low"]])


async def test_refusals_do_not_pile_up_while_the_disk_is_low(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await publisher(world)
        world.engine.disk_low = "9 bytes are free"  # type: ignore[attr-defined]
        for sequence in range(1, 50):
            client.say([wire.PUBLISH, sequence, [["a", b"x"]]])
        await world.quiet()
        assert [frame[1] for frame in told(client, wire.REFUSE)] == list(range(1, 50))
        assert not client.session.intake._refused


async def test_connections_of_one_publisher_are_one_sender(tmp_path: Path) -> None:
    """Else the second one's greeting could overtake, in the writer's turns, what the first one handed in."""
    async with open_world(tmp_path / "data", make) as world:
        first, second = await publisher(world), await publisher(world)
        assert first.session.sender == second.session.sender != Wire(world).session.sender


async def test_many_topics_are_not_remembered_for_ever(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world)
        client.say([wire.HELLO, 1, {}])
        for first in range(1, 3 * MAX_TOPICS, 5_000):
            client.say([wire.PUBLISH, first, [[f"t/{i}", b""] for i in range(first, first + 5_000)]])
        await world.quiet()
        assert not client.session.closed
        assert len(client.session.principal.topics) <= MAX_TOPICS


async def test_empty_messages_weigh_too(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world)
        holds: list[bool] = []
        client.hold = lambda *, reading: holds.append(reading)  # type: ignore[method-assign]
        client.say([wire.HELLO, 1, {}])
        for first in range(1, 80_000, 10_000):
            client.say([wire.PUBLISH, first, [["a", b""]] * 10_000])
        assert holds == [False]
        await world.quiet()
        assert holds == [False, True]


@pytest.mark.parametrize(
    "parts",
    [
        {"publish": [["a", b""]] * 10_001},
        {"set": [["k", b""]] * 10_001},
        {"settle": [[1, "ack", [1] * 5_001], [1, "ack", [1] * 5_000]]},
    ],
    ids=lambda parts: next(iter(parts)),
)
async def test_a_unit_is_bounded(tmp_path: Path, parts: dict[str, Any]) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        client.say([wire.UNIT, 1, parts])
        assert client.heard[-1][2] == "bad_frame"
        assert "10000" in client.heard[-1][3]


async def test_a_unit_on_a_consumer_that_ended_is_refused_and_the_connection_stays(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        await world.engine.delete_subscription("q")
        client.say([wire.UNIT, 1, {"publish": [["out", b""]], "settle": [[1, "ack", [1]]]}])
        await world.quiet()
        assert [frame[3] for frame in told(client, wire.REFUSE)] == ["lease_lost"]
        assert await world.log("out") == []
        assert not client.session.closed


# Consuming


@pytest.mark.parametrize("options", [{"credit": 20}, {"credit": 20, "bytes": 64 << 20}])
async def test_bytes_granted_are_passed_on_when_all_messages_were(tmp_path: Path, options: dict[str, Any]) -> None:
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        for _ in range(20):
            await world.publish("jobs", b"x" * (1 << 20))
        client = Wire(world)
        client.say([wire.HELLO, 1, {}], [wire.ATTACH, 1, "q", options])
        for _ in range(10):
            await world.quiet()
            client.say()
        assert sum(len(frame[3]) for frame in told(client, wire.DELIVER)) == 20


async def test_deliver_keeps_to_the_limit_on_frames_and_the_order(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        rows = [await world.publish("jobs", b"x" * (1 << 20)) for _ in range(7)]
        client = Wire(world)
        client.say([wire.HELLO, 1, {}], [wire.ATTACH, 1, "q", {"credit": 7}])
        await world.quiet()
        frames = told(client, wire.DELIVER)
        limit = client.session.hub.limits.max_frame
        assert len(frames) > 1
        assert all(sum(len(row[4]) for row in frame[3]) <= limit // 2 for frame in frames)
        assert [row[0] for frame in frames for row in frame[3]] == [receipt.offset for receipt in rows]


async def test_keys_of_connectors_are_out_of_reach(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await publisher(world)
        client.say([wire.UNIT, 1, {"set": [["webhook/q/secret", b"mine"]]}])
        await world.quiet()
        assert [frame[3] for frame in told(client, wire.REFUSE)] == ["forbidden"]
        assert await world.engine.get("webhook/q/secret") is None


async def test_topics_are_a_list(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        client.say([wire.ATTACH, 2, None, {"topics": "jobs"}])
        assert client.heard[-1][:3] == [wire.DETACHED, 2, "bad_filter"]


# The end


async def test_after_closing_nothing_is_delivered(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        client.say([wire.ATTACH, 2, None, {"topics": ["jobs"], "credit": 10}])
        client.session.drain("the daemon is stopping")
        await world.publish("jobs", "3", "4")
        assert client.heard[-1][0] == wire.CLOSING
        assert (world.info().leased, world.info().ready) == (2, 2)
        client.say([wire.SETTLE, 1, "ack", [1, 2]], [wire.CREDIT, 1, 10, 1_000])
        await world.quiet()
        assert client.heard[-1][0] == wire.CLOSING
        assert (world.info().acked, world.info().ready) == (2, 2)


async def test_what_was_on_its_way_at_closing_is_given_back(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        client = Wire(world)
        client.say([wire.HELLO, 1, {}], [wire.ATTACH, 1, "q", {"credit": 1}])
        tie = client.session.ties[1]
        tie._stopped = True  # as when the engine was reading for it
        await world.publish("jobs", "1")
        assert world.info().leased == 1
        client.say()
        assert (world.info().leased, world.info().ready) == (0, 1)
        assert not told(client, wire.DELIVER)


@pytest.mark.parametrize("end", ["goodbye", "shutdown", "broken"])
async def test_only_a_broken_connection_counts_against_what_was_started(tmp_path: Path, end: str) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        client.say([wire.STARTED, 1, [1]])
        if end == "goodbye":
            client.say([wire.GOODBYE])
            await world.quiet()
        elif end == "shutdown":
            client.session.close()
        client.session.lost()
        worker = world.attach("q")
        await worker.take(2)
        assert worker.attempts_of(1) == (0, 1 if end == "broken" else 0)


async def test_a_closed_connection_holds_nothing_while_its_last_bytes_wait(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        client.say([99])
        assert client.session.closed
        assert [row[4] for row in await world.attach("q").take(2)] == [b"1", b"2"]
