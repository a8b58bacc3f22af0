"""Shared subscriptions: one durable queue per group."""

import asyncio
from contextlib import suppress

import pytest

from broker.core.subscription import Spec
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import Ack, Disconnect, Publish, Request, Suback, Subscribe
from tests.protocols.mqtt.door import SHORT, Door
from tests.protocols.mqtt.test_kept import kept

GROUP = "$share/g/a/#"


async def test_each_message_goes_to_one_member(door: Door) -> None:
    members = [await door.connect(name) for name in "xyz"]
    for member in members:
        assert (await member.subscribe(GROUP, qos=2)).reasons == (Reason.GRANTED_QOS_1,)
    writer = await door.connect("w")
    for i in range(30):
        writer.write(Publish(f"a/{i}", str(i).encode(), 1, packet_id=i + 1))
    taken: list[list[str]] = [[], [], []]
    while sum(map(len, taken)) < 30:
        for member, mine in zip(members, taken, strict=True):
            with suppress(TimeoutError):
                mine.append((await member.hear(Publish, 0.01)).payload.decode())
    assert sorted([*taken[0], *taken[1], *taken[2]], key=int) == [str(i) for i in range(30)]
    assert all(taken)
    for member in members:
        await member.nothing()


@pytest.mark.statement("MQTT-4.8.2-4", "MQTT-4.8.2-5")
async def test_no_message_of_qos_2_is_on_its_way_to_a_member(door: Door) -> None:
    """Both statements speak of one; a group is granted QoS 1 at most."""
    member, writer = await door.connect("member"), await door.connect("w")
    assert (await member.subscribe(GROUP, qos=2)).reasons == (Reason.GRANTED_QOS_1,)
    await writer.publish("a/1", "x", 2)
    assert (await member.take()).qos == 1


@pytest.mark.statement("MQTT-4.8.2-6")
async def test_what_a_member_refuses_goes_to_nobody(door: Door) -> None:
    members = [await door.connect(name) for name in "xy"]
    for member in members:
        await member.subscribe(GROUP)
    writer = await door.connect("w")
    for i in range(2):
        await writer.publish("a/1", str(i))
    for member in members:
        packet = await member.hear(Publish)
        member.write(Ack(Kind.PUBACK, (packet.packet_id,), Reason.NOT_AUTHORIZED))
    for member in members:
        await member.ping()
        await member.nothing()
    await members[0].leave()
    await members[1].nothing()


async def test_what_a_lost_member_had_in_hand_goes_to_another(door: Door) -> None:
    one = await door.connect("one")
    await one.subscribe(GROUP)
    writer = await door.connect("w")
    await writer.publish("a/1", "x")
    await one.hear(Publish)
    two = await door.connect("two")
    await two.subscribe(GROUP)
    await one.lost()
    assert (await two.take()).payload == b"x"


async def test_it_is_held_while_all_members_are_away_and_over_a_crash(door: Door) -> None:
    one = await kept(door, client_id="one")
    await one.subscribe(GROUP)
    await one.leave()
    writer = await door.connect("w")
    await writer.publish("a/1", "x")
    await door.crash()
    two = await door.connect("two")
    await two.subscribe(GROUP)
    assert (await two.take()).payload == b"x"


async def test_it_ends_with_the_session_of_its_last_member(door: Door) -> None:
    one, two = await kept(door, client_id="one"), await door.connect("two")
    await one.subscribe(GROUP)
    await two.subscribe(GROUP)
    (info,) = door.hub.engine.subscriptions()
    assert (info.spec.name, info.consumers) == ("mqtt/$share/g/a/#", 2)
    await one.unsubscribe(GROUP)
    assert door.hub.engine.subscriptions()
    await two.leave()
    await door.server.sessions.stop()
    assert not door.hub.engine.subscriptions()


async def test_members_that_only_lived_are_forgotten_by_a_crash(door: Door) -> None:
    one = await door.connect("one")
    await one.subscribe(GROUP)
    await door.crash()
    assert not door.hub.engine.subscriptions()


@pytest.mark.statement("MQTT-3.3.4-5")
async def test_a_subscription_of_its_own_beside_it(door: Door) -> None:
    one = await door.connect("one")
    await one.subscribe(GROUP, identifier=1)
    await one.subscribe("a/#", identifier=2, packet_id=2)
    one.write(Publish("a/b", b"x", 1, packet_id=3))
    ids = [(await one.take()).properties["subscription_ids"] for _ in range(2)]
    assert sorted(ids) == [[1], [2]]
    await one.nothing()


async def test_no_local_is_no_option_of_theirs(door: Door) -> None:
    one = await door.connect("one")
    one.raw(bytes.fromhex("820f0001000009") + b"$share/g/" + b"\x04")
    assert (await one.hear(Disconnect)).reason in (Reason.PROTOCOL_ERROR, Reason.MALFORMED_PACKET)


@pytest.mark.statement("MQTT-4.8.2-3")
async def test_a_member_that_resumes_goes_on(door: Door) -> None:
    one, writer = await kept(door, client_id="one"), await door.connect("w")
    await one.subscribe(GROUP)
    await writer.publish("a/1", "x")
    await one.hear(Publish)
    await one.lost()
    await asyncio.sleep(0.01)
    one = await kept(door, client_id="one", present=True)
    assert (await one.take()).payload == b"x"
    await one.nothing()
    one.write(Subscribe(5, (Request(GROUP, 0),)))
    await one.ping()
    await writer.publish("a/2", "y")
    packet = await one.take()
    assert (packet.payload, packet.qos) == (b"y", 0)


async def test_who_goes_while_it_joins_leaves_no_group_behind(door: Door) -> None:
    await door.connect("hasty")
    connection = door.comes("hasty", Subscribe(1, (Request(GROUP, 1),)))
    await asyncio.sleep(0)
    connection.abort()
    await asyncio.gather(*connection._tasks)
    await door.server.sessions.stop()
    assert not len(door.server.sessions)
    assert not len(door.server.sessions.groups)
    assert not door.world.engine.subscriptions()


async def test_one_group_that_is_made_slowly_holds_up_no_other(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, same = [await door.connect(name) for name in ("one", "two", "same")]
    made, go_on = door.hub.put_own, asyncio.Event()

    async def put_own(spec: Spec) -> None:
        if spec.name == "mqtt/$share/slow/a":
            await go_on.wait()
        await made(spec)

    monkeypatch.setattr(door.hub, "put_own", put_own)
    for client in (one, same):
        client.write(Subscribe(1, (Request("$share/slow/a", 1),)))
    await asyncio.sleep(SHORT)
    assert (await two.subscribe("$share/quick/a")).reasons == (Reason.GRANTED_QOS_1,)
    await one.nothing(Suback)
    go_on.set()
    for client in (one, same):
        assert (await client.hear(Suback)).reasons == (Reason.GRANTED_QOS_1,)
    (slow,) = [info for info in door.hub.engine.subscriptions() if "slow" in info.spec.name]
    assert slow.consumers == 2
