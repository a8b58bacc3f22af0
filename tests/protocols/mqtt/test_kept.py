"""Sessions that outlive their connections, and the broker's process."""

import asyncio
from pathlib import Path

import pytest

from broker.auth.principal import LOCAL
from broker.core.position import EARLIEST
from broker.limits import Limits
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import V5, V311, Ack, Connack, Connect, Disconnect, Publish, Request, Subscribe
from tests.protocols.mqtt.door import PATIENCE, SHORT, Client, Door, open_door


async def kept(door: Door, version: int = V5, client_id: str = "kept", **options: object) -> Client:
    if version == V5:
        options.setdefault("expiry", 3_600)
    return await door.connect(client_id, version, clean=False, **options)


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.statement("MQTT-3.1.2-5", "MQTT-3.1.2-23", "MQTT-3.1.3-2", "MQTT-3.2.2-3", "MQTT-4.5.0-1")
async def test_what_comes_while_a_client_is_away_waits(door: Door, version: int) -> None:
    client, writer = await kept(door, version, present=False), await door.connect("w")
    await client.subscribe("a/#", qos=2)
    await client.leave()
    for i in range(3):
        await writer.publish(f"a/{i}", str(i), 1 + i % 2)
    client = await kept(door, version, present=True)
    assert await client.bodies(3) == ["0", "1", "2"]
    await client.leave()
    client = await kept(door, version, present=True)
    await client.nothing()


async def test_it_outlives_the_process(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a/+", qos=1, identifier=4)
    await client.leave()
    await writer.publish("a/b", "x")
    await door.crash()
    client = await kept(door, present=True)
    packet = await client.take()
    assert (packet.payload, packet.properties["subscription_ids"]) == (b"x", [4])


@pytest.mark.statement("MQTT-3.1.2-4", "MQTT-3.1.4-4", "MQTT-3.2.2-2")
async def test_clean_start_begins_anew(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a")
    await client.leave()
    await writer.publish("a", "x")
    client = await door.connect("kept", clean=True, expiry=100, present=False)
    await client.nothing()
    await writer.publish("a", "y")
    await client.nothing()
    assert not [info for info in door.hub.engine.subscriptions() if info.spec.name.startswith("mqtt/")]


@pytest.mark.statement("MQTT-4.1.0-2")
async def test_a_session_expires(door: Door) -> None:
    client = await kept(door, expiry=60)
    await client.subscribe("a")
    await client.leave()
    await door.advance(59)
    client = await kept(door, expiry=60, present=True)
    await client.leave()
    await door.advance(61)
    assert len(door.server.sessions) == 0
    assert not door.hub.engine.subscriptions()
    assert not await door.hub.engine.keys("mqtt/")
    await kept(door, present=False)


@pytest.mark.statement("MQTT-4.1.0-1")
async def test_it_does_not_expire_under_a_client_that_is_there(door: Door) -> None:
    client, writer = await kept(door, expiry=1), await door.connect("w")
    await client.subscribe("a")
    await door.advance(1_000)
    await writer.publish("a", "still there")
    assert await client.bodies(1) == ["still there"]


async def test_it_expires_over_a_restart(door: Door) -> None:
    client = await kept(door, expiry=60)
    await client.subscribe("a")
    await client.leave()
    await client.lost()
    await door.crash()
    door.world.clock.move(61)
    await door.advance(0)
    assert len(door.server.sessions) == 0


async def test_the_expiry_may_change_with_disconnect(door: Door) -> None:
    client = await kept(door)
    await client.leave(properties={"session_expiry": 0})
    await door.server.sessions.stop()
    assert len(door.server.sessions) == 0
    client = await door.connect("live")
    client.write(Disconnect(Reason.SUCCESS, {"session_expiry": 5}))
    assert (await client.hear(Disconnect)).reason is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.statement("MQTT-3.3.1-1", "MQTT-4.3.2-3", "MQTT-4.4.0-1", "MQTT-4.6.0-1")
async def test_what_was_not_answered_comes_again_with_its_identifier(door: Door, qos: int) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=2)
    for i in range(3):
        await writer.publish("a", str(i), qos)
    first = [await client.hear(Publish) for _ in range(3)]
    await client.lost()
    await asyncio.sleep(0.01)
    client = await kept(door, present=True)
    again = [await client.hear(Publish) for _ in range(3)]
    assert [packet.packet_id for packet in again] == [packet.packet_id for packet in first]
    assert all(packet.dup for packet in again)
    assert not any(packet.dup for packet in first)
    for packet in again:
        await client.answer(packet)
    await writer.publish("a", "new", qos)
    assert not (await client.take()).dup
    await client.nothing()


@pytest.mark.parametrize(("qos", "kind"), [(1, Kind.PUBACK), (2, Kind.PUBREC)])
@pytest.mark.statement("MQTT-4.4.0-2")
async def test_what_its_receiver_refused_does_not_come_again(door: Door, qos: int, kind: Kind) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=2)
    await writer.publish("a", "unwelcome", qos)
    packet = await client.hear(Publish)
    client.write(Ack(kind, (packet.packet_id,), Reason.QUOTA_EXCEEDED))
    await client.ping()
    await client.lost()
    await asyncio.sleep(0.01)
    client = await kept(door, present=True)
    await client.nothing()


@pytest.mark.statement("MQTT-4.3.3-7", "MQTT-4.3.3-13")
async def test_qos_2_goes_on_although_the_message_expires_meanwhile(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=2)
    await writer.publish("a", "short", 2, properties={"message_expiry": 2})
    packet = await client.hear(Publish)
    await door.advance(10)
    assert door.hub.engine.outstanding("mqtt/kept", [await last_offset(door)])
    await client.answer(packet)
    await client.ping()


async def test_after_a_crash_identifiers_are_released_in_the_order_in_which_they_were(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=2)
    for body in ("one", "two", "three"):
        await writer.publish("a", body, 2)
    ids = [(await client.hear(Publish)).packet_id for _ in range(3)]
    for packet_id in reversed(ids):
        client.write(Ack(Kind.PUBREC, (packet_id,)))
        await client.hear(Ack)
    await door.crash()
    client = await kept(door, present=True)
    assert [(await client.hear(Ack)).packet_ids[0] for _ in ids] == ids[::-1]


async def test_one_who_releases_twice_is_answered_when_it_is_on_disk(door: Door) -> None:
    """Else a crash in between leaves the identifier in use, and its next message is taken for a repetition."""
    client = await kept(door)
    client.write(Publish("a", b"one", 2, packet_id=7))
    await client.hear(Ack)
    client.write(Ack(Kind.PUBREL, (7,)), Ack(Kind.PUBREL, (7,)))
    answers = [(await client.hear(Ack)).reason for _ in range(2)]
    assert answers == [Reason.SUCCESS, Reason.PACKET_IDENTIFIER_NOT_FOUND]


async def last_offset(door: Door) -> int:
    return (await door.hub.read(LOCAL, ["#"], EARLIEST, 1_000)).rows[-1][0]


@pytest.mark.statement("MQTT-4.3.3-3", "MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-4.3.3-6")
async def test_qos_2_goes_on_after_a_crash_with_the_same_identifier(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=2)
    await writer.publish("a", "one", 2)
    await writer.publish("a", "two", 2)
    one, two = await client.hear(Publish), await client.hear(Publish)
    client.write(Ack(Kind.PUBREC, (one.packet_id,)))
    assert (await client.hear(Ack)).kind is Kind.PUBREL
    await door.crash()
    client = await kept(door, present=True)
    release = await client.hear(Ack)
    assert (release.kind, release.packet_ids) == (Kind.PUBREL, (one.packet_id,))
    client.write(Ack(Kind.PUBCOMP, release.packet_ids))
    again = await client.take()
    assert (again.packet_id, again.dup, again.payload) == (two.packet_id, True, b"two")
    await client.nothing()
    await client.ping()
    await door.world.quiet()
    assert not await door.hub.engine.keys("mqtt/out/")


async def test_an_inbound_qos_2_message_is_stored_once_over_a_crash(door: Door) -> None:
    reader = await kept(door, client_id="reader")
    await reader.subscribe("a", qos=2)
    writer = await kept(door, client_id="writer")
    writer.write(Publish("a", b"x", 2, packet_id=9))
    assert (await writer.hear(Ack)).kind is Kind.PUBREC
    await door.crash()
    writer = await kept(door, client_id="writer", present=True)
    writer.write(Publish("a", b"x", 2, dup=True, packet_id=9))
    assert (await writer.hear(Ack)).kind is Kind.PUBREC
    writer.write(Ack(Kind.PUBREL, (9,)))
    assert (await writer.hear(Ack)).kind is Kind.PUBCOMP
    reader = await kept(door, client_id="reader", present=True)
    assert (await reader.take()).payload == b"x"
    await reader.nothing()
    assert not await door.hub.engine.keys("mqtt/in/")


async def test_the_window_holds_for_what_comes_again(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a")
    for i in range(6):
        await writer.publish("a", str(i))
    for _ in range(6):
        await client.hear(Publish)
    await client.lost()
    await asyncio.sleep(0.01)
    client = await kept(door, receive_maximum=2)
    first = [await client.hear(Publish) for _ in range(2)]
    await client.nothing()
    for packet in first:
        await client.answer(packet)
    assert await client.bodies(4) == ["2", "3", "4", "5"]


async def test_qos_0_filters_are_served_live_only(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("live", qos=0)
    await client.subscribe("kept", qos=1, packet_id=2)
    await writer.publish("live", "1")
    await writer.publish("kept", "2")
    assert sorted(await client.bodies(2)) == ["1", "2"]
    await client.leave()
    await writer.publish("live", "3")
    await writer.publish("kept", "4")
    client = await kept(door, present=True)
    assert await client.bodies(1) == ["4"]
    await writer.publish("live", "5")
    assert await client.bodies(1) == ["5"]


async def test_filters_of_both_kinds_that_overlap_bring_a_message_once(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a/#", qos=0, identifier=1)
    await client.subscribe("a/b", qos=1, identifier=2, packet_id=2)
    await writer.publish("a/b", "x")
    packet = await client.take()
    assert (packet.qos, packet.properties["subscription_ids"]) == (1, [1, 2])
    await client.nothing()


async def test_taking_over_goes_on_where_the_first_was(door: Door) -> None:
    first, writer = await kept(door), await door.connect("w")
    await first.subscribe("a")
    await writer.publish("a", "x")
    packet = await first.hear(Publish)
    second = await kept(door, present=True)
    assert (await first.hear(Disconnect)).reason is Reason.SESSION_TAKEN_OVER
    again = await second.take()
    assert (again.packet_id, again.dup) == (packet.packet_id, True)


async def test_many_take_over_at_once(door: Door) -> None:
    clients = [await door.dial() for _ in range(20)]
    for client in clients:
        client.write(Connect(V5, "same", clean_start=False, properties={"session_expiry": 60}))
    connacks = [await client.hear(Connack) for client in clients]
    assert [connack.session_present for connack in connacks].count(False) == 1
    for client in clients[:-1]:
        await client.closed()
    await clients[-1].ping()
    assert len(door.server.sessions) == 1


async def test_unsubscribing_ends_the_queue(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", "b")
    assert (await client.unsubscribe("a")).reasons == (Reason.SUCCESS,)
    await writer.publish("a", "no")
    await writer.publish("b", "yes")
    assert await client.bodies(1) == ["yes"]
    await client.unsubscribe("b")
    assert not door.hub.engine.subscriptions()
    await client.subscribe("c")
    await writer.publish("c", "more")
    assert await client.bodies(1) == ["more"]


async def test_what_waits_is_bounded(tmp_path: object, door: Door) -> None:
    door.server.options = door.server.options.model_copy(update={"queued_messages": 3})
    door.server.sessions._options = door.server.options
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a")
    await client.leave()
    for i in range(6):
        await writer.publish("a", str(i))
    client = await kept(door, present=True)
    assert await client.bodies(3) == ["3", "4", "5"]
    assert door.hub.engine.subscription("mqtt/kept").dropped == 3


async def test_names_of_clients_do_not_reach_into_one_another(door: Door) -> None:
    for name in ("a/b", "a%2Fb", "$share", "ä +#"):
        client = await kept(door, client_id=name, present=False)
        await client.subscribe("t")
        await client.leave()
    await door.crash()
    assert len(door.server.sessions) == 4
    for name in ("a/b", "a%2Fb", "$share", "ä +#"):
        await kept(door, client_id=name, present=True)


async def test_what_expired_in_flight_with_qos_1_takes_no_place_in_the_window(door: Door) -> None:
    client, writer = await kept(door, receive_maximum=1), await door.connect("w")
    await client.subscribe("a", qos=1)
    await writer.publish("a", "short", 1, properties={"message_expiry": 2})
    assert (await client.hear(Publish)).payload == b"short"
    await client.lost()
    await asyncio.sleep(0.01)
    await door.advance(5)
    await writer.publish("a", "next", 1)
    client = await kept(door, receive_maximum=1, present=True)
    assert await client.bodies(1) == ["next"]


@pytest.mark.parametrize("how", ["lost", "crash"])
@pytest.mark.statement("MQTT-4.3.3-7")
async def test_qos_2_goes_on_although_the_message_expires_while_its_client_is_away(door: Door, how: str) -> None:
    client, writer = await kept(door, receive_maximum=2), await door.connect("w")
    await client.subscribe("a", qos=2)
    for body in ("1", "2", "never sent"):
        await writer.publish("a", body, 2, properties={"message_expiry": 2})
    first, second = [await client.hear(Publish) for _ in range(2)]
    client.write(Ack(Kind.PUBREC, (second.packet_id,)))
    assert (await client.hear(Ack)).kind is Kind.PUBREL
    await (client.lost() if how == "lost" else door.crash())
    await asyncio.sleep(0.01)
    await door.advance(5)
    await (await door.connect("w2")).publish("a", "next", 2)
    client = await kept(door, receive_maximum=2, present=True)
    release = await client.hear(Ack)
    assert (release.kind, release.packet_ids) == (Kind.PUBREL, (second.packet_id,))
    again = await client.hear(Publish)
    assert (again.payload, again.packet_id, again.dup) == (b"1", first.packet_id, True)
    assert again.properties["message_expiry"] == 0
    await client.nothing()
    client.write(Ack(Kind.PUBCOMP, release.packet_ids))
    await client.answer(again)
    assert await client.bodies(1) == ["next"]
    await client.nothing()
    await client.ping()
    await door.world.quiet()
    assert not await door.hub.engine.keys("mqtt/out/")


async def test_what_cannot_go_on_with_qos_2_is_released(door: Door) -> None:
    """More has begun than is read from the log again. The client may have it, and would take a later message under the
    same identifier for a repetition."""
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=2)
    for _ in range(5):
        await writer.publish("a", "x" * 1_000_000, 2)
    sent = [await client.hear(Publish) for _ in range(5)]
    await client.lost()
    async with asyncio.timeout(PATIENCE):
        while door.hub.engine.subscription("mqtt/kept").ready < 5:  # noqa: ASYNC110  until its end is noticed
            await asyncio.sleep(0.001)
    assert await door.hub.engine.purge("mqtt/kept") == 5
    client = await kept(door, present=True)
    release = await client.hear(Ack)
    assert (release.kind, release.packet_ids) == (Kind.PUBREL, (sent[4].packet_id,))
    client.write(Ack(Kind.PUBCOMP, release.packet_ids))
    for packet in sent[:4]:
        assert await client.take() == packet._replace(dup=True)
    await client.nothing()
    await client.ping()
    await door.world.quiet()
    assert not await door.hub.engine.keys("mqtt/out/")


async def test_what_goes_on_with_qos_2_takes_its_part_of_the_window(door: Door) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=2)
    for i in range(5):
        await writer.publish("a", str(i), 2, properties={"message_expiry": 2})
        await client.hear(Publish)
    await client.lost()
    await asyncio.sleep(0.01)
    await door.advance(5)
    for i in range(5, 12):
        await writer.publish("a", str(i), 2)
    client = await kept(door, receive_maximum=6, present=True)
    assert await client.bodies(12) == [str(i) for i in range(12)]
    await client.nothing()


@pytest.mark.parametrize(("qos", "again"), [(1, []), (2, ["2", "3", "4", "5"])])
async def test_what_expires_before_it_could_be_sent_again_stops_nothing(door: Door, qos: int, again: list[str]) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=2)
    for i in range(6):
        await writer.publish("a", str(i), qos, properties={"message_expiry": 2})
        await client.hear(Publish)
    await client.lost()
    await asyncio.sleep(0.01)
    client = await kept(door, receive_maximum=2, present=True)
    first = [await client.hear(Publish) for _ in range(2)]
    await door.advance(5)
    for i in range(6, 9):
        await writer.publish("a", str(i), qos)
    for packet in first:
        await client.answer(packet)
    await client.ping()
    await door.advance(1)
    assert await client.bodies(3 + len(again)) == [*again, "6", "7", "8"]
    await client.nothing()
    (session,) = [session for session in door.server.sessions.all() if session.durable]
    assert not session.resuming
    await door.world.quiet()
    assert not await door.hub.engine.keys("mqtt/out/")


async def test_a_session_that_could_not_be_resumed_still_expires(door: Door) -> None:
    client = await kept(door, expiry=60)
    await client.leave()
    door.hub.engine.disk_low = "the test says so"  # type: ignore[attr-defined]
    refused = await door.dial()
    refused.write(Connect(V5, "kept", clean_start=False, properties={"session_expiry": 60}))
    assert (await refused.hear(Connack)).reason is Reason.QUOTA_EXCEEDED
    door.hub.engine.disk_low = ""  # type: ignore[attr-defined]
    await door.advance(61)
    assert len(door.server.sessions) == 0


async def test_qos_2_is_completed_while_the_disk_is_low(door: Door) -> None:
    reader, writer = await kept(door, client_id="reader"), await kept(door, client_id="writer")
    await reader.subscribe("a", qos=2)
    writer.write(Publish("a", b"1", 2, packet_id=9))
    assert (await writer.hear(Ack)).kind is Kind.PUBREC
    packet = await reader.hear(Publish)
    door.hub.engine.disk_low = "the test says so"  # type: ignore[attr-defined]
    writer.write(Ack(Kind.PUBREL, (9,)))
    done = await writer.hear(Ack)
    assert (done.kind, done.reason) == (Kind.PUBCOMP, Reason.SUCCESS)
    await reader.answer(packet)
    await reader.ping()
    await door.world.quiet()
    assert not await door.hub.engine.keys("mqtt/in/")
    assert not await door.hub.engine.keys("mqtt/out/")
    door.hub.engine.disk_low = ""  # type: ignore[attr-defined]
    await door.crash()
    writer = await kept(door, client_id="writer", present=True)
    await writer.publish("a", "2", 2, 9)
    assert [row[4] for row in (await door.hub.read(LOCAL, ["a"], EARLIEST, 10)).rows] == [b"1", b"2"]


async def test_qos_2_is_delivered_once_while_the_disk_is_low(door: Door) -> None:
    reader, writer = await kept(door, client_id="reader", receive_maximum=1), await door.connect("writer")
    await reader.subscribe("a", qos=2)
    for text in ("1", "2", "3"):
        await writer.publish("a", text, 2)
    first = await reader.hear(Publish)
    door.hub.engine.disk_low = "the test says so"  # type: ignore[attr-defined]
    assert await writer.publish("a", "4", 2) is Reason.QUOTA_EXCEEDED
    await reader.answer(first)
    second = await reader.hear(Publish)
    assert (second.payload, second.qos, second.dup) == (b"2", 2, False)
    door.hub.engine.disk_low = ""  # type: ignore[attr-defined]
    await door.crash()
    reader = await kept(door, client_id="reader", receive_maximum=1, present=True)
    again = await reader.hear(Publish)
    assert (again.payload, again.packet_id, again.dup) == (b"2", second.packet_id, True)
    await reader.answer(again)
    assert await reader.bodies(1) == ["3"]


@pytest.mark.parametrize("version", [V311, V5])
async def test_a_subscription_that_cannot_be_kept_is_refused_and_leaves_nothing(tmp_path: Path, version: int) -> None:
    async with open_door(tmp_path, limits=Limits(max_subscriptions=1)) as door:
        first, client = await kept(door, version, "first"), await kept(door, version)
        assert (await first.subscribe("a", qos=1)).reasons == (Reason.GRANTED_QOS_1,)
        refused = Reason.QUOTA_EXCEEDED if version == V5 else Reason.UNSPECIFIED_ERROR
        assert (await client.subscribe("a", "$share/g/a", "b", qos=1)).reasons == (refused,) * 3
        assert (await client.subscribe("a", qos=0)).reasons == (Reason.SUCCESS,)
        assert (await client.subscribe("a", qos=1)).reasons == (refused,)
        await door.crash()
        session = door.server.sessions.find("kept")
        assert session is not None
        (entry,) = session.entries()
        assert (entry.filter, entry.qos) == ("a", 0)
        client = await kept(door, version, present=True)
        await client.publish("a", "live")
        assert await client.bodies(1) == ["live"]
        assert [info.spec.name for info in door.hub.engine.subscriptions()] == ["mqtt/first"]


async def test_a_subscription_is_refused_while_the_disk_is_low(door: Door) -> None:
    client = await kept(door)
    await client.subscribe("$share/g/a", "b", qos=1)
    door.hub.engine.disk_low = "the test says so"  # type: ignore[attr-defined]
    assert (await client.subscribe("$share/g/a", qos=0)).reasons == (Reason.QUOTA_EXCEEDED,)
    assert (await client.subscribe("b", "c", qos=2)).reasons == (Reason.QUOTA_EXCEEDED,) * 2
    (session,) = door.server.sessions.all()
    assert [(entry.filter, entry.qos) for entry in session.entries()] == [("b", 1), ("$share/g/a", 1)]
    assert door.hub.engine.subscription("mqtt/kept").spec.topics == ("b",)


async def test_a_clean_start_during_a_subscribe_has_nothing_of_it(door: Door) -> None:
    await kept(door)
    now = await door.dial()
    await asyncio.sleep(SHORT)
    door.comes("kept", Subscribe(1, (Request("$share/g/b", 1), Request("a", 1))))
    await asyncio.sleep(0)
    door.comes("", Connect(V5, "kept", True, properties={"session_expiry": 60}))
    await now.hear(Connack)
    await now.ping()
    assert not door.world.engine.subscriptions()
    await door.crash()
    (session,) = door.server.sessions.all()
    assert not len(session.filters)


async def test_a_clean_start_during_a_publish_forgets_its_identifier(door: Door) -> None:
    await kept(door)
    now = await door.dial()
    await asyncio.sleep(SHORT)
    door.comes("kept", Publish("a", b"1", 2, packet_id=5))
    door.comes("", Connect(V5, "kept", True, properties={"session_expiry": 60}))
    await now.hear(Connack)
    await door.crash()
    again = await kept(door)
    await again.publish("a", "2", 2, 5)
    assert [row[4] for row in (await door.hub.read(LOCAL, ["a"], EARLIEST, 10)).rows] == [b"1", b"2"]


async def test_what_was_in_flight_is_completed_after_unsubscribing(door: Door) -> None:
    reader = await kept(door)
    await reader.subscribe("a", qos=2)
    writer = await door.connect("w")
    await writer.publish("a", "1", 2)
    packet = await reader.hear(Publish)
    await reader.unsubscribe("a")
    await reader.answer(packet)
    await reader.subscribe("a", qos=2)
    await writer.publish("a", "2", 2)
    assert await reader.bodies(1) == ["2"]


@pytest.mark.parametrize("text", ["a", "$share/g/a"])
async def test_what_is_in_flight_stays_with_a_client_that_stays(door: Door, text: str) -> None:
    reader = await kept(door)
    await reader.subscribe(text)
    writer = await door.connect("w")
    await writer.publish("a", "1")
    packet = await reader.hear(Publish)
    for _ in range(3):
        door.server.sessions.prolong()
        await door.advance(80_000)
        await reader.nothing()
    await reader.answer(packet)
    await reader.ping()
