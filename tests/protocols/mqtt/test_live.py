"""Sessions that end with their connections: publish and subscribe, at every QoS, in every version."""

import asyncio
from pathlib import Path

import pytest

from broker.auth.principal import LOCAL
from broker.core.position import EARLIEST
from broker.hub import Outgoing
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import (
    V5,
    V311,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsubscribe,
)
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.mqtt.door import Door, open_door
from tests.protocols.mqtt.strategies import VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("wanted", [0, 1, 2])
@pytest.mark.statement(
    "MQTT-2.2.1-4",
    "MQTT-4.3.1-1",
    "MQTT-4.3.2-1",
    "MQTT-4.3.2-2",
    "MQTT-4.3.2-4",
    "MQTT-4.3.3-1",
    "MQTT-4.3.3-2",
    "MQTT-4.3.3-8",
    "MQTT-3.8.4-8",
)
async def test_a_message_comes_with_the_lower_of_both_qos(
    door: Door, version: int, published: int, wanted: int
) -> None:
    reader = await door.connect("reader", version)
    assert (await reader.subscribe("a/+", qos=wanted)).reasons == (Reason(wanted),)
    writer = await door.connect("writer", version)
    assert await writer.publish("a/b", "hello", published) is Reason.SUCCESS
    packet = await reader.take()
    assert (packet.topic, packet.payload, packet.qos, packet.retain, packet.dup) == (
        *("a/b", b"hello", min(published, wanted)),
        *(False, False),
    )
    assert bool(packet.packet_id) is (packet.qos > 0)
    await reader.nothing()


async def test_what_was_acknowledged_is_in_the_log(door: Door) -> None:
    writer = await door.connect("w")
    for qos in (1, 2):
        await writer.publish("a/b", f"qos {qos}", qos)
    page = await door.hub.read(LOCAL, ["a/#"], EARLIEST, 10)
    assert [row[4] for row in page.rows] == [b"qos 1", b"qos 2"]


async def test_qos_0_that_nobody_needs_later_is_not_in_the_log(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a/b", qos=2)
    await writer.publish("a/b", "passing", 0)
    assert (await reader.take()).payload == b"passing"
    assert not (await door.hub.read(LOCAL, ["a/#"], EARLIEST, 10)).rows


@pytest.mark.statement("MQTT-4.6.0-5", "MQTT-4.6.0-6")
async def test_many_in_one_read_are_answered_in_order(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a/#", qos=1)
    writer.write(*(Publish(f"a/{i % 3}", str(i).encode(), 1, packet_id=i) for i in range(1, 201)))
    assert [(await writer.hear(Ack)).packet_ids[0] for _ in range(200)] == list(range(1, 201))
    assert await reader.bodies(200) == [str(i) for i in range(1, 201)]


@pytest.mark.statement("MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-12")
async def test_a_message_is_stored_once_when_qos_2_is_sent_again(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a", qos=2)
    writer.write(Publish("a", b"x", 2, packet_id=5))
    assert (await writer.hear(Ack)).kind is Kind.PUBREC
    writer.write(Publish("a", b"x", 2, dup=True, packet_id=5))
    assert (await writer.hear(Ack)).kind is Kind.PUBREC
    writer.write(Ack(Kind.PUBREL, (5,)))
    assert (await writer.hear(Ack)).kind is Kind.PUBCOMP
    assert (await reader.take()).payload == b"x"
    await reader.nothing()
    assert await writer.publish("a", "y", 2, packet_id=5) is Reason.SUCCESS
    assert (await reader.take()).payload == b"y"


async def test_an_unknown_pubrel_is_answered(door: Door) -> None:
    writer = await door.connect("w")
    writer.write(Ack(Kind.PUBREL, (77,)))
    ack = await writer.hear(Ack)
    assert (ack.kind, ack.packet_ids, ack.reason) == (Kind.PUBCOMP, (77,), Reason.PACKET_IDENTIFIER_NOT_FOUND)


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.statement("MQTT-3.3.4-2", "MQTT-3.3.4-3", "MQTT-3.3.4-4")
async def test_overlapping_filters_bring_a_message_once_at_the_highest_qos(door: Door, version: int) -> None:
    reader, writer = await door.connect("r", version), await door.connect("w", version)
    await reader.subscribe("a/#", qos=2, identifier=3 if version == V5 else 0)
    await reader.subscribe("a/+", qos=1, identifier=9 if version == V5 else 0)
    await reader.subscribe("b/+", qos=0)
    await writer.publish("a/b", "x", 2)
    packet = await reader.take()
    assert packet.qos == 2
    if version == V5:
        assert packet.properties["subscription_ids"] == [3, 9]
    await reader.nothing()


@pytest.mark.statement("MQTT-3.8.4-3")
async def test_a_filter_put_again_replaces_itself(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a", qos=2, identifier=1)
    await reader.subscribe("a", qos=0, identifier=2)
    await writer.publish("a", "x", 2)
    packet = await reader.take()
    assert (packet.qos, packet.properties["subscription_ids"]) == (0, [2])
    await reader.nothing()


@pytest.mark.statement("MQTT-3.8.3-3")
async def test_no_local_spares_the_publisher_alone(door: Door) -> None:
    both, other = await door.connect("both"), await door.connect("other")
    await both.subscribe("a", no_local=True)
    await other.subscribe("a")
    await both.publish("a", "mine")
    assert (await other.take()).payload == b"mine"
    await both.nothing()
    await other.publish("a", "yours")
    assert (await both.take()).payload == b"yours"


async def test_an_overlapping_filter_without_no_local_brings_it(door: Door) -> None:
    both = await door.connect("both")
    await both.subscribe("a/b", no_local=True, identifier=1)
    await both.subscribe("a/#", identifier=2, packet_id=2)
    both.write(Publish("a/b", b"mine", 1, packet_id=3))
    packet = await both.take()
    assert packet.properties["subscription_ids"] == [2]


@pytest.mark.statement("MQTT-2.2.1-6", "MQTT-3.10.4-1", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.11.3-1")
async def test_unsubscribed_is_not_delivered(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a", "b")
    answer = await reader.unsubscribe("a", "never")
    assert answer.reasons == (Reason.SUCCESS, Reason.NO_SUBSCRIPTION_EXISTED)
    await writer.publish("a", "no")
    await writer.publish("b", "yes")
    assert (await reader.take()).payload == b"yes"
    await reader.nothing()


@pytest.mark.statement(
    "MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20"
)
async def test_what_a_publisher_says_of_a_message_arrives_unchanged(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a")
    said = {
        "payload_format": 1,
        "content_type": "text/plain",
        "response_topic": "answers/w",
        "correlation_data": b"\0\1",
        "user": [("b", "1"), ("a", "2"), ("b", "3"), ("", "4")],
        "message_expiry": 60,
    }
    await writer.publish("a", "x", properties=said)  # type: ignore[arg-type]
    assert (await reader.take()).properties == said


async def test_other_doors_and_mqtt_understand_one_another(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a", qos=2)
    options = {"key": "k", "id": "i", "priority": 3, "headers": {"h": "v"}, "content_type": "x/y", "ttl": 5_000}
    await door.hub.publish(LOCAL, [Outgoing("a", b"x", options)])
    packet = await reader.take()
    assert packet.qos == 2
    assert packet.properties["user"] == [
        *(("h", "v"), ("postroom-key", "k"), ("postroom-id", "i"), ("postroom-priority", "3")),
    ]
    assert (packet.properties["content_type"], packet.properties["message_expiry"]) == ("x/y", 5)
    await writer.publish("b", "y", properties={"user": [("h", "v")], "content_type": "t", "message_expiry": 3})
    (row,) = (await door.hub.read(LOCAL, ["b"], EARLIEST, 1)).rows
    from broker.core.message import Message

    message = Message.of(row, door.hub.engine.epoch)
    assert (message.headers, message.content_type, message.expires_at) == ({"h": "v"}, "t", row[2] + 3_000)


@pytest.mark.statement("MQTT-3.3.2-5", "MQTT-3.3.2-6")
async def test_an_expired_message_is_not_delivered(door: Door) -> None:
    reader, writer = await door.connect("r", receive_maximum=1), await door.connect("w")
    await reader.subscribe("a")
    await writer.publish("a", "first")
    await writer.publish("a", "short", properties={"message_expiry": 2})
    await writer.publish("a", "long", properties={"message_expiry": 10})
    first = await reader.hear(Publish)
    await door.advance(4)
    await reader.answer(first)
    packet = await reader.take()
    assert (packet.payload, packet.properties["message_expiry"]) == (b"long", 6)


@pytest.mark.statement("MQTT-3.3.4-7", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
async def test_receive_maximum_bounds_what_is_sent(door: Door) -> None:
    reader, writer = await door.connect("r", receive_maximum=3), await door.connect("w")
    await reader.subscribe("a", qos=2)
    for i in range(8):
        await writer.publish("a", str(i), 1 + i % 2)
    first = [await reader.hear(Publish) for _ in range(3)]
    await reader.nothing()
    for packet in first:
        await reader.answer(packet)
    assert await reader.bodies(5) == ["3", "4", "5", "6", "7"]


@pytest.mark.statement("MQTT-3.3.4-8")
async def test_our_receive_maximum_is_kept(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(receive_maximum=2)) as door:
        writer = await door.connect("w")
        assert writer.connack.properties["receive_maximum"] == 2
        writer.write(*(Publish("a", b"", 2, packet_id=i) for i in (1, 2, 3)))
        assert (await writer.hear(Disconnect)).reason is Reason.RECEIVE_MAXIMUM_EXCEEDED
        await writer.closed()


@pytest.mark.statement("MQTT-3.1.2-27", "MQTT-3.3.2-12")
async def test_topic_aliases_of_a_publisher(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a/#")
    await writer.publish("a/long", "1", properties={"topic_alias": 2})
    await writer.publish("", "2", properties={"topic_alias": 2})
    await writer.publish("a/other", "3", properties={"topic_alias": 2})
    await writer.publish("", "4", properties={"topic_alias": 2})
    taken = [await reader.take() for _ in range(4)]
    assert [packet.topic for packet in taken] == ["a/long", "a/long", "a/other", "a/other"]
    assert not any(packet.properties for packet in taken)
    writer.write(Publish("", b"", 0, properties={"topic_alias": 5}))
    assert (await writer.hear(Disconnect)).reason is Reason.PROTOCOL_ERROR


@pytest.mark.statement("MQTT-3.1.2-26")
async def test_topic_aliases_for_a_reader_that_takes_them(door: Door) -> None:
    reader, writer = await door.connect("r", topic_alias_maximum=1), await door.connect("w")
    await reader.subscribe("a/#", qos=2)
    for qos in (0, 1, 2):
        await writer.publish("a/b", str(qos), qos)
    taken = [await reader.take() for _ in range(3)]
    assert [(packet.topic, packet.properties["topic_alias"]) for packet in taken] == [("a/b", 1), ("", 1), ("", 1)]


@pytest.mark.statement("MQTT-3.1.2-24", "MQTT-3.1.2-25")
async def test_a_packet_over_the_readers_maximum_is_passed_over(door: Door) -> None:
    reader, writer = await door.connect("r", maximum_packet_size=60), await door.connect("w")
    await reader.subscribe("a")
    await writer.publish("a", "x" * 100)
    await writer.publish("a", "small")
    assert (await reader.take()).payload == b"small"


async def test_a_slow_reader_costs_no_memory_and_misses_nothing(door: Door) -> None:
    reader, writer = await door.connect("r", receive_maximum=5), await door.connect("w")
    await reader.subscribe("a")
    for i in range(1, 301):
        writer.write(Publish("a", str(i).encode(), 1, packet_id=i))
    for _ in range(300):
        await writer.hear(Ack)
    session = door.server.sessions.find("r")
    assert session is not None
    assert session.sender is not None
    assert session.sender.waiting == 0
    assert await reader.bodies(300) == [str(i) for i in range(1, 301)]


async def test_filters_change_without_gap_or_doubling(door: Door) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a/0")
    for i in range(1, 40):
        writer.write(Publish(f"a/{i % 2}", str(i).encode(), 1, packet_id=i))
        if i % 5 == 0:
            reader.write(Subscribe(i, (Request(f"x/{i}", 1),)))
        if i % 7 == 0:
            reader.write(Unsubscribe(i, (f"x/{i}",)))
        await asyncio.sleep(0.001)
    assert await reader.bodies(19) == [str(i) for i in range(2, 40, 2)]


@pytest.mark.statement("MQTT-3.1.3-4", "MQTT-3.1.3-6", "MQTT-3.2.2-16")
async def test_clients_without_a_name_get_one(door: Door) -> None:
    client = await door.connect("")
    assert client.connack.properties["assigned_client_id"]
    older = await door.connect("", V311)
    await older.ping()
    refused = await door.dial(V311)
    refused.raw(bytes.fromhex("100c00044d5154540400003c0000"))
    assert (await refused.hear(Connack)).reason is Reason.CLIENT_IDENTIFIER_NOT_VALID


@pytest.mark.statement("MQTT-3.1.4-3")
async def test_a_second_connection_takes_over(door: Door) -> None:
    first = await door.connect("c")
    await first.subscribe("a")
    second = await door.connect("c", present=False)
    assert (await first.hear(Disconnect)).reason is Reason.SESSION_TAKEN_OVER
    await first.closed()
    await second.ping()
    await second.publish("a", "x")
    await second.nothing()


async def test_a_dollar_topic_is_nobodys_to_publish_to(door: Door) -> None:
    client, older = await door.connect("c"), await door.connect("o", V311)
    assert await client.publish("$sys/x", "no", 1) is Reason.NOT_AUTHORIZED
    assert await client.publish("$sys/x", "no", 2) is Reason.NOT_AUTHORIZED
    assert await older.publish("$sys/x", "no", 1) is Reason.SUCCESS
    assert await older.publish("$sys/x", "no", 2) is Reason.SUCCESS
    assert not (await door.hub.read(LOCAL, ["$sys/#"], EARLIEST, 10)).rows


@pytest.mark.statement("MQTT-3.8.4-5", "MQTT-3.9.3-1")
async def test_a_bad_filter_is_refused_alone(door: Door) -> None:
    client = await door.connect("c")
    answer = await client.subscribe("a", "b" * 2_000, "c")
    assert answer.reasons == (Reason.GRANTED_QOS_1, Reason.TOPIC_FILTER_INVALID, Reason.GRANTED_QOS_1)


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.statement("MQTT-3.2.0-1")
async def test_what_comes_with_connect_is_served_after_it(door: Door, version: int) -> None:
    client = await door.dial(version)
    client.write(Connect(version, "eager"), Subscribe(1, (Request("a", 1),)), Publish("a", b"x", 1, packet_id=2))
    assert (await client.hear(Connack)).reason is Reason.SUCCESS
    assert (await client.hear(Suback)).reasons == (Reason.GRANTED_QOS_1,)
    assert (await client.take()).payload == b"x"


async def test_a_message_that_is_passed_over_tells_no_alias(door: Door) -> None:
    reader, writer = await door.connect("r", maximum_packet_size=60, topic_alias_maximum=5), await door.connect("w")
    await reader.subscribe("a")
    await writer.publish("a", "x" * 100)
    await writer.publish("a", "small")
    packet = await reader.take()
    assert (packet.topic, packet.payload) == ("a", b"small")
