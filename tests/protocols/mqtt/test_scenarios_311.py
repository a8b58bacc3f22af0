"""The ten scenarios for MQTT 3.1.1 of Paho's interoperability suite (client_test.py of eclipse/paho.mqtt.testing), told
in our own words, against a running daemon with the profile `config/mqtt-conformance.toml`."""

import asyncio
from time import monotonic

import pytest

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import V311, Connack, Connect, Publish, Will
from tests.protocols.mqtt.guests import Guests, bodies, exactly, three

VERSION = V311
pytestmark = pytest.mark.system


async def test_basic(guests: Guests) -> None:
    """A client comes, goes and comes again, and hears itself at every QoS; a second CONNECT or another protocol is an
    end."""
    await (await guests.connect("a")).leave()
    a = await guests.connect("a", present=False)
    topic = guests.at("TopicA")
    assert (await a.subscribe(topic, qos=2)).reasons == (Reason.GRANTED_QOS_2,)
    await three(a, topic)
    assert [(m.payload, m.qos) for m in await exactly(a, 3)] == [(b"qos 0", 0), (b"qos 1", 1), (b"qos 2", 2)]
    a.write(Connect(V311, "again"))
    await a.closed()
    stranger = await guests.dial()
    stranger.raw(bytes.fromhex("100b0002686a0402003c000161"))  # the protocol "hj"
    await stranger.closed()
    assert not [packet for packet in stranger.heard if isinstance(packet, Connack) and packet.reason is Reason.SUCCESS]


async def test_retained_messages(guests: Guests) -> None:
    """Who subscribes later gets what is retained; an empty message deletes it."""
    topics = [guests.at(topic) for topic in ("TopicA/B", "Topic/C", "TopicA/C")]
    a = await guests.connect("a")
    await three(a, *topics, retain=True)
    await a.subscribe(guests.at("+/+"), qos=2)
    found = {m.topic: (m.payload.decode(), m.qos, m.retain) for m in await exactly(a, 3)}
    assert found == {topic: (f"qos {qos}", qos, True) for qos, topic in enumerate(topics)}
    await a.leave()
    a = await guests.connect("a")
    for qos, topic in enumerate(topics):
        await a.publish(topic, "", qos, retain=True)
    await a.subscribe(guests.at("+/+"), qos=2)
    await exactly(a, 0)


async def test_zero_length_clientid(guests: Guests) -> None:
    """Without a name only a clean session is to be had."""
    refused = await guests.dial()
    refused.raw(bytes.fromhex("100c00044d5154540400003c0000"))
    assert (await refused.hear(Connack)).reason is Reason.CLIENT_IDENTIFIER_NOT_VALID
    await refused.closed()
    await (await guests.connect("", clean=True)).ping()


async def test_offline_message_queueing(guests: Guests) -> None:
    """What comes while a client is away waits for it; QoS 0 need not, but does here."""
    a = await guests.connect("a", clean=False, present=False)
    await a.subscribe(guests.at("+/+"), qos=2)
    await a.leave()
    b = await guests.connect("b")
    await three(b, *(guests.at(topic) for topic in ("TopicA/B", "Topic/C", "TopicA/C")))
    a = await guests.connect("a", clean=False, present=True)
    assert bodies(await exactly(a, 3)) == ["qos 0", "qos 1", "qos 2"]


async def test_overlapping_subscriptions(guests: Guests) -> None:
    """A message that two filters match comes once, at the higher QoS."""
    a = await guests.connect("a")
    a_all, a_one = guests.at("TopicA/#"), guests.at("TopicA/+")
    await a.subscribe(a_all, qos=2)
    await a.subscribe(a_one, qos=1)
    await a.publish(guests.at("TopicA/C"), "overlapping", 2)
    assert [(m.payload, m.qos) for m in await exactly(a, 1)] == [(b"overlapping", 2)]


async def test_keepalive(guests: Guests) -> None:
    """Who falls silent is lost after one and a half keep alives, and its will is told."""
    b = await guests.connect("b")
    await b.subscribe(guests.at("TopicA"), qos=2)
    begun = monotonic()
    a = await guests.connect("a", keep_alive=1, will=Will(guests.at("TopicA"), b"keepalive expiry"))
    assert (await b.take()).payload == b"keepalive expiry"
    assert 1.4 < monotonic() - begun < 4
    await a.closed()


async def test_redelivery_on_reconnect(guests: Guests) -> None:
    """What was not answered before the connection ended comes again after it, marked as a duplicate."""
    b = await guests.connect("b", clean=False)
    await b.subscribe(guests.at("TopicA/#"), qos=2)
    await b.publish(guests.at("TopicA/B"), "one", 1, packet_id=11)
    await b.publish(guests.at("TopicA/C"), "two", 2, packet_id=12)
    first = [await b.hear(Publish) for _ in range(2)]
    await b.leave()
    b = await guests.connect("b", clean=False, present=True)
    again = await exactly(b, 2)
    assert [(m.payload, m.qos, m.dup) for m in again] == [(b"one", 1, True), (b"two", 2, True)]
    assert [m.packet_id for m in again] == [m.packet_id for m in first]


async def test_subscribe_failure(guests: Guests) -> None:
    """A filter that nobody may subscribe to is refused with 0x80, alone or among others."""
    a = await guests.connect("a")
    answer = await a.subscribe("test/nosubscribe", guests.at("TopicA"), qos=2)
    assert answer.reasons == (Reason.UNSPECIFIED_ERROR, Reason.GRANTED_QOS_2)
    await guests.forget("test/nosubscribe")
    await a.publish("test/nosubscribe", "unheard")
    await a.nothing()


async def test_dollar_topics(guests: Guests) -> None:
    """Wildcards at the beginning match no topic that begins with $, and to publish there ends no connection."""
    b = await guests.connect("b")
    await b.subscribe("#", "+/+", qos=2)
    assert await b.publish("$TopicA/B", "hidden", 1) is Reason.SUCCESS
    await exactly(b, 0)
    await b.ping()


async def test_unsubscribe(guests: Guests) -> None:
    """Of three filters the two that remain bring messages."""
    topics = [guests.at(topic) for topic in ("TopicA", "TopicA/B", "Topic/C")]
    b = await guests.connect("b")
    for topic in topics:
        await b.subscribe(topic, qos=2)
    await b.unsubscribe(topics[0])
    a = await guests.connect("a")
    for topic in topics:
        await a.publish(topic, topic, 1)
    assert bodies(await exactly(b, 2)) == topics[1:]
    await asyncio.gather(a.leave(), b.leave())
