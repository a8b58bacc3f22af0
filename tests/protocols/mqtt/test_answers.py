"""What the door answers: to each packet its own answer, with its identifier, as large as its receiver takes it."""

from pathlib import Path

import pytest

from broker.auth.principal import LOCAL
from broker.core.position import EARLIEST
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.fitting import Answer
from broker.protocols.mqtt.codec.packets import (
    V5,
    V311,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.mqtt.door import Client, Door, open_door
from tests.protocols.mqtt.strategies import VERSIONS

PLAIN_NAMES = ("0", "z", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.statement(
    *("MQTT-2.2.1-5", "MQTT-3.3.4-1", "MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.9.2-1", "MQTT-3.11.2-1"),
)
async def test_each_bears_the_identifier_of_what_it_answers(door: Door, version: int) -> None:
    client = await door.connect("c", version)
    for packet_id in (1, 256, 65_535):
        client.write(Publish("a", b"", 0))
        client.write(Publish("a", b"", 1, packet_id=packet_id))
        assert await client.hear(Ack) == Ack(Kind.PUBACK, (packet_id,))
        client.write(Publish("a", b"", 2, packet_id=packet_id))
        assert await client.hear(Ack) == Ack(Kind.PUBREC, (packet_id,))
        client.write(Ack(Kind.PUBREL, (packet_id,)))
        assert await client.hear(Ack) == Ack(Kind.PUBCOMP, (packet_id,))
        client.write(Subscribe(packet_id, (Request("b", 1),)))
        assert (await client.hear(Suback)).packet_id == packet_id
        client.write(Unsubscribe(packet_id, ("b",)))
        assert (await client.hear(Unsuback)).packet_id == packet_id
    await client.nothing(Ack)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.statement("MQTT-3.12.4-1")
async def test_each_ping_gets_its_answer(door: Door, version: int) -> None:
    client = await door.connect("c", version)
    client.write(Pingreq(), Pingreq(), Pingreq())
    for _ in range(3):
        await client.hear(Pingresp)
    await client.nothing(Pingresp)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.statement("MQTT-3.1.4-5", "MQTT-3.2.0-2")
async def test_connect_gets_one_connack_and_no_more(door: Door, version: int) -> None:
    client = await door.dial(version)
    client.write(Connect(version, "c"), Pingreq())
    assert (await client.hear(Connack)).reason is Reason.SUCCESS
    await client.hear(Pingresp)
    client.write(Connect(version, "c"))
    await client.closed()
    assert not [packet for packet in client.heard if isinstance(packet, Connack)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.statement("MQTT-3.1.3-3")
async def test_plain_names_are_let_in(door: Door, version: int) -> None:
    for name in PLAIN_NAMES:
        await (await door.connect(name, version)).ping()


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.statement("MQTT-3.1.3-5", "MQTT-3.1.3-8")
async def test_a_name_that_is_too_long_is_told_and_closed(door: Door, version: int) -> None:
    client = await door.dial(version)
    client.write(Connect(version, "c" * 1_025))
    assert (await client.hear(Connack)).reason is Reason.CLIENT_IDENTIFIER_NOT_VALID
    await client.closed()


@pytest.mark.statement("MQTT-3.1.4-6", "MQTT-3.14.0-1", "MQTT-4.12.0-4")
async def test_of_who_is_refused_nothing_is_done(door: Door) -> None:
    watcher, client = await door.connect("watcher"), await door.dial()
    await watcher.subscribe("a", qos=2)
    client.write(
        Connect(V5, "c", properties={"authentication_method": "SCRAM"}),
        Publish("a", b"0", 0),
        Publish("a", b"1", 1, retain=True, packet_id=1),
        Subscribe(2, (Request("a", 1),)),
    )
    assert (await client.hear(Connack)).reason is Reason.BAD_AUTHENTICATION_METHOD
    await client.closed()
    assert client.heard == []
    await watcher.nothing()
    assert not (await door.hub.read(LOCAL, ["a"], EARLIEST, 1)).rows
    assert len(door.hub.retained) == 0


@pytest.mark.statement("MQTT-4.12.0-6", "MQTT-4.12.0-7", "MQTT-4.12.1-2")
async def test_auth_is_neither_sent_nor_taken(door: Door) -> None:
    client = await door.connect("c")
    assert "authentication_method" not in client.connack.properties
    client.write(Auth(Reason.RE_AUTHENTICATE, {"authentication_method": "SCRAM"}))
    assert (await client.hear(Disconnect)).reason >= Reason.UNSPECIFIED_ERROR
    await client.closed()
    assert client.heard == []


@pytest.mark.statement("MQTT-3.2.2-9", "MQTT-3.2.2-10", "MQTT-3.2.2-12", "MQTT-3.2.2-13")
async def test_every_qos_is_served_and_what_is_retained(door: Door) -> None:
    """What these statements ask of servers that lack something is asked of none here: nothing lesser is advertised."""
    client = await door.connect("c", will=Will("a", b"", 2, retain=True))
    assert not client.connack.properties.keys() & {"maximum_qos", "retain_available"}
    for qos in range(3):
        assert (await client.subscribe("a", qos=qos)).reasons == (Reason(qos),)


@pytest.mark.statement("MQTT-3.8.4-6", "MQTT-3.8.4-7")
async def test_each_filter_has_its_reason_in_suback(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(refused_filters=frozenset({"c"}))) as door:
        client = await door.connect("c")
        requests = Request("a", 2), Request("b" * 2_000, 1), Request("a", 0), Request("c", 1), Request("$share/g/d", 1)
        client.write(Subscribe(1, requests))
        assert (await client.hear(Suback)).reasons == (
            *(Reason.GRANTED_QOS_2, Reason.TOPIC_FILTER_INVALID, Reason.SUCCESS, Reason.UNSPECIFIED_ERROR),
            Reason.GRANTED_QOS_1,
        )


@pytest.mark.parametrize("expiry", [0, 60])
@pytest.mark.statement("MQTT-3.10.4-6")
async def test_several_filters_are_left_in_order_with_one_unsuback(door: Door, expiry: int) -> None:
    client = await door.connect("c", expiry=expiry)
    await client.subscribe("a", "b")
    assert (await client.unsubscribe("a", "a", "never", "b")).reasons == (
        *(Reason.SUCCESS, Reason.NO_SUBSCRIPTION_EXISTED, Reason.NO_SUBSCRIPTION_EXISTED, Reason.SUCCESS),
    )
    await client.nothing(Unsuback)
    await client.publish("a", "")
    await client.publish("b", "")
    await client.nothing()


@pytest.mark.statement("MQTT-3.3.4-9", "MQTT-4.9.0-3")
async def test_all_but_messages_is_answered_although_both_quotas_are_used_up(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(receive_maximum=1)) as door:
        client = await door.connect("c", receive_maximum=1)
        await client.subscribe("a")
        writer = await door.connect("w")
        for body in "12":
            await writer.publish("a", body)
        packet = await client.hear(Publish)
        client.write(Publish("b", b"", 2, packet_id=5))
        assert (await client.hear(Ack)).kind is Kind.PUBREC
        await client.ping()
        assert (await client.subscribe("x")).reasons == (Reason.GRANTED_QOS_1,)
        assert (await client.unsubscribe("x")).reasons == (Reason.SUCCESS,)
        client.write(Ack(Kind.PUBREL, (5,)))
        assert (await client.hear(Ack)).kind is Kind.PUBCOMP
        await client.nothing()
        await client.answer(packet)
        assert await client.bodies(1) == ["2"]


@pytest.mark.statement("MQTT-3.14.4-1", "MQTT-3.14.4-2")
async def test_after_disconnect_nothing_more_is_sent(door: Door) -> None:
    client, writer = await door.connect("c"), await door.connect("w")
    await client.subscribe("a", qos=0)
    client.write(Publish("a", b"", 0, properties={"topic_alias": 99}), Pingreq(), Publish("a", b"late", 1, packet_id=1))
    for _ in range(20):
        await writer.publish("a", "x")
    await client.closed()
    assert isinstance(client.heard[-1], Disconnect)
    assert not [packet for packet in client.heard if isinstance(packet, Pingresp | Ack)]


# As large as their receiver takes them

SMALL = 40
"""Bytes that hold every answer, but none with its reason string."""


async def answers(client: Client) -> list[Answer]:
    """One of each kind that may say in words what is wrong, and PUBREL, which may as well."""
    client.write(Publish("$sys/x", b"", 1, packet_id=1), Publish("$sys/x", b"", 2, packet_id=2))
    found: list[Answer] = [await client.hear(Ack), await client.hear(Ack)]
    client.write(Ack(Kind.PUBREL, (77,)))
    found += [await client.hear(Ack), await client.subscribe("x" * 1_025, "a", qos=2)]
    await client.publish("a", "x", 2)
    packet = await client.hear(Publish)
    client.write(Ack(Kind.PUBREC, (packet.packet_id,)))
    found.append(await client.hear(Ack))
    client.write(Ack(Kind.PUBCOMP, (packet.packet_id,)))
    found.append(await client.unsubscribe("never"))
    client.write(Publish("a", b"", 0, properties={"topic_alias": 99}))
    found.append(await client.hear(Disconnect))
    return found


@pytest.mark.statement(
    *("MQTT-3.4.2-2", "MQTT-3.4.2-3", "MQTT-3.5.2-2", "MQTT-3.5.2-3", "MQTT-3.6.2-2", "MQTT-3.6.2-3", "MQTT-3.7.2-2"),
    *("MQTT-3.7.2-3", "MQTT-3.9.2-2", "MQTT-3.11.2-2", "MQTT-3.14.2-3", "MQTT-3.14.2-4"),
)
async def test_answers_are_no_larger_than_their_receiver_takes_them(door: Door) -> None:
    wordy = await answers(await door.connect("any"))
    assert sum("reason_string" in packet.properties for packet in wordy) == 4
    plain = await answers(await door.connect("small", maximum_packet_size=SMALL))
    assert [type(packet) for packet in plain] == [type(packet) for packet in wordy]
    assert all(len(encode(packet, V5)) <= SMALL for packet in plain)


@pytest.mark.statement("MQTT-3.2.2-19", "MQTT-3.2.2-20")
async def test_a_refusal_is_no_larger_than_its_receiver_takes_it(door: Door) -> None:
    for largest, worded in ((1_000, True), (SMALL, False)):
        client = await door.dial()
        will = Will("$sys/x", b"")
        client.write(Connect(V5, "c", will=will, properties={"maximum_packet_size": largest}))
        connack = await client.hear(Connack)
        assert connack.reason is Reason.NOT_AUTHORIZED
        assert ("reason_string" in connack.properties) is worded
        assert len(encode(connack, V5)) <= largest
