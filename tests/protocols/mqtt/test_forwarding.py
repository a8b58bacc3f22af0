"""What becomes of a message on its way from a publisher to its readers: what is kept of it, and what is not."""

import asyncio
from pathlib import Path

import pytest

from broker.auth.principal import LOCAL
from broker.core.position import EARLIEST
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import V5, V311, Connack, Connect, Disconnect, Pingresp, Publish
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.mqtt.door import Door, open_door

ALIKE = ("a/b", "A/b", "a//b", "/a/b", "a/b/", " a/b", "a/b ", "a/é", "a/e\u0301", "a/ﬁ", "a/fi", "a/\ufeffb")
"""Topics that somebody might take for one another."""


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.statement("MQTT-3.3.1-3")
async def test_that_it_came_again_is_not_told(door: Door, qos: int) -> None:
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a", qos=2)
    await writer.publish("a", "x", qos, dup=True)
    assert not (await reader.take()).dup


@pytest.mark.parametrize("expiry", [0, 60])
@pytest.mark.statement("MQTT-3.3.2-3", "MQTT-4.7.3-4")
async def test_a_topic_is_its_bytes_and_nothing_else(door: Door, expiry: int) -> None:
    writer = await door.connect("w")
    readers = {}
    for number, topic in enumerate(ALIKE):
        readers[topic] = await door.connect(f"r{number}", expiry=expiry)
        await readers[topic].subscribe(topic)
    for topic in ALIKE:
        await writer.publish(topic, topic)
    for topic, reader in readers.items():
        packet = await reader.take()
        assert (packet.topic, packet.payload.decode()) == (topic, topic)
        await reader.nothing(within=0.01)


@pytest.mark.statement("MQTT-4.3.2-5")
async def test_an_identifier_of_qos_1_that_was_answered_is_of_a_new_message(door: Door) -> None:
    writer = await door.connect("w")
    for body in "123":
        assert await writer.publish("a", body, 1, packet_id=5, dup=True) is Reason.SUCCESS
    assert [row[4] for row in (await door.hub.read(LOCAL, ["a"], EARLIEST, 10)).rows] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("expiry", [0, 60])
@pytest.mark.statement("MQTT-4.3.3-9")
async def test_an_identifier_of_qos_2_that_was_refused_is_of_a_new_message(door: Door, expiry: int) -> None:
    writer = await door.connect("w", expiry=expiry)
    assert await writer.publish("$sys/x", "no", 2, packet_id=5) is Reason.NOT_AUTHORIZED
    assert await writer.publish("a", "yes", 2, packet_id=5, dup=True) is Reason.SUCCESS
    assert [row[4] for row in (await door.hub.read(LOCAL, ["#"], EARLIEST, 10)).rows] == [b"yes"]


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.statement("MQTT-4.2-1")
async def test_bytes_may_come_one_by_one(door: Door, version: int) -> None:
    client = await door.dial(version)
    for byte in encode(Connect(version, "c"), version) + encode(Publish("a", b"x", 1, packet_id=1), version):
        client.raw(bytes((byte,)))
        await asyncio.sleep(0)
    await client.hear(Connack)
    client.raw(b"\xc0")
    await client.nothing(Pingresp)
    client.raw(b"\x00")
    await client.hear(Pingresp)
    assert [row[4] for row in (await door.hub.read(LOCAL, ["a"], EARLIEST, 10)).rows] == [b"x"]


# Topic aliases


@pytest.mark.parametrize("most", [0, 3])
@pytest.mark.statement("MQTT-3.2.2-17", "MQTT-3.2.2-18", "MQTT-3.3.2-9")
async def test_an_alias_over_our_maximum_ends_the_connection(tmp_path: Path, most: int) -> None:
    async with open_door(tmp_path, MqttOptions(topic_alias_maximum=most)) as door:
        client = await door.connect("c")
        assert client.connack.properties.get("topic_alias_maximum", 0) == most
        if most:
            assert await client.publish("a", "x", properties={"topic_alias": most}) is Reason.SUCCESS
        client.write(Publish("a", b"over", 1, packet_id=9, properties={"topic_alias": most + 1}))
        assert (await client.hear(Disconnect)).reason is Reason.TOPIC_ALIAS_INVALID
        await client.closed()
        assert b"over" not in [row[4] for row in (await door.hub.read(LOCAL, ["a"], EARLIEST, 10)).rows]


@pytest.mark.statement("MQTT-3.3.2-10")
async def test_aliases_end_with_their_connection(door: Door) -> None:
    for kept in (True, False):
        reader = await door.connect("r", expiry=60, clean=False, topic_alias_maximum=1 if kept else 0)
        await reader.subscribe("a")
        await reader.publish("a", "1", properties={"topic_alias": 1})
        packet = await reader.take()
        assert (packet.topic, packet.properties) == ("a", {"topic_alias": 1} if kept else {})
        await reader.leave()
    reader = await door.connect("r", expiry=60, clean=False)
    reader.write(Publish("", b"2", 1, packet_id=2, properties={"topic_alias": 1}))
    assert (await reader.hear(Disconnect)).reason is Reason.PROTOCOL_ERROR


@pytest.mark.statement("MQTT-3.3.2-11")
async def test_no_alias_is_over_the_readers_maximum(door: Door) -> None:
    reader, writer = await door.connect("r", topic_alias_maximum=2), await door.connect("w")
    await reader.subscribe("a/#")
    for _ in range(2):
        for number in range(5):
            await writer.publish(f"a/{number}", str(number))
    taken = [await reader.take() for _ in range(10)]
    assert {packet.properties.get("topic_alias", 0) for packet in taken} <= {0, 1, 2}
    known: dict[int, str] = {}
    for packet in taken:
        alias = packet.properties.get("topic_alias", 0)
        if packet.topic:
            known[alias] = packet.topic
        assert known[alias] == f"a/{packet.payload.decode()}"
