"""The twenty-seven scenarios for MQTT 5.0 of Paho's interoperability suite (client_test5.py of
eclipse/paho.mqtt.testing), told in our own words, against a running daemon with the profile
`config/mqtt-conformance.toml`."""

import asyncio
from time import monotonic
from typing import Any

import pytest

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import V5, V311, Ack, Connack, Connect, Disconnect, Publish, Will
from tests.protocols.mqtt.guests import Guests, bodies, exactly, puback, three

VERSION = V5
RECEIVE_MAXIMUM, KEEP_ALIVE, ALIASES = 20, 60, 10
"""What the profile says."""
USER: Any = [("a", "2"), ("c", "3")]
EACH_QOS = [("qos 0", 0), ("qos 1", 1), ("qos 2", 2)]
pytestmark = pytest.mark.system


def said(messages: list[Publish]) -> list[tuple[str, int]]:
    return [(message.payload.decode(), message.qos) for message in messages]


async def test_basic(guests: Guests) -> None:
    """A client comes, goes and comes again, and hears itself at every QoS; a second CONNECT or another protocol is an
    end."""
    await (await guests.connect("a")).leave()
    a = await guests.connect("a", present=False)
    topic = guests.at("TopicA")
    assert (await a.subscribe(topic, qos=2)).reasons == (Reason.GRANTED_QOS_2,)
    await three(a, topic)
    assert said(await exactly(a, 3)) == EACH_QOS
    a.write(Connect(V5, "again"))
    assert (await a.hear(Disconnect)).reason is Reason.PROTOCOL_ERROR
    await a.closed()
    stranger = await guests.dial(V311)  # as which it is answered
    stranger.raw(bytes.fromhex("100c0002686a0502003c00000161"))  # the protocol "hj"
    await stranger.closed()
    assert not [packet for packet in stranger.heard if isinstance(packet, Connack) and packet.reason is Reason.SUCCESS]


async def test_retained_message(guests: Guests) -> None:
    """What is retained comes later with its QoS and its user properties."""
    topics = [guests.at(topic) for topic in ("TopicA/B", "Topic/C", "TopicA/C")]
    a = await guests.connect("a")
    await three(a, *topics, retain=True, user=USER)
    await a.subscribe(guests.at("+/+"), qos=2)
    found = {m.topic: (*said([m])[0], m.retain, m.properties["user"]) for m in await exactly(a, 3)}
    assert found == {topic: (f"qos {qos}", qos, True, USER) for qos, topic in enumerate(topics)}
    await guests.forget(*topics)


async def test_will_message(guests: Guests) -> None:
    """The will of a client that falls silent comes with its user properties in order."""
    b = await guests.connect("b", clean=False)
    await b.subscribe(guests.at("Topic/C"), qos=2)
    will = Will(guests.at("Topic/C"), b"will message", properties={"will_delay": 0, "user": USER})
    a = await guests.connect("a", keep_alive=1, will=will)
    message = await b.take()
    assert (message.payload, message.properties["user"]) == (b"will message", USER)
    assert (await a.hear(Disconnect)).reason is Reason.KEEP_ALIVE_TIMEOUT


async def test_zero_length_clientid(guests: Guests) -> None:
    """Whoever comes without a name gets one, with or without a clean start."""
    names = set()
    for clean in (False, True):
        client = await guests.connect("", clean=clean, present=False)
        names.add(client.connack.properties["assigned_client_id"])
        await client.leave()
    assert len(names) == 2


async def test_offline_message_queueing(guests: Guests) -> None:
    """What comes while a client is away waits for it; QoS 0 need not, but does here."""
    a = await guests.connect("a", expiry=99_999)
    await a.subscribe(guests.at("+/+"), qos=2)
    await a.leave()
    b = await guests.connect("b")
    await three(b, *(guests.at(topic) for topic in ("TopicA/B", "Topic/C", "TopicA/C")))
    a = await guests.connect("a", clean=False, present=True)
    assert said(await exactly(a, 3)) == EACH_QOS


async def test_overlapping_subscriptions(guests: Guests) -> None:
    """A message that two filters match comes once, at the higher QoS."""
    a = await guests.connect("a")
    await a.subscribe(guests.at("TopicA/#"), qos=2)
    await a.subscribe(guests.at("TopicA/+"), qos=1)
    await a.publish(guests.at("TopicA/C"), "overlapping", 2)
    assert said(await exactly(a, 1)) == [("overlapping", 2)]


async def test_keepalive(guests: Guests) -> None:
    """Who falls silent is lost after one and a half keep alives, and its will is told."""
    b = await guests.connect("b")
    await b.subscribe(guests.at("TopicA"), qos=2)
    begun = monotonic()
    await guests.connect("a", keep_alive=1, will=Will(guests.at("TopicA"), b"keepalive expiry"))
    assert (await b.take()).payload == b"keepalive expiry"
    assert 1.4 < monotonic() - begun < 4


async def test_redelivery_on_reconnect(guests: Guests) -> None:
    """What was not answered before the connection ended comes again after it, marked as a duplicate."""
    b = await guests.connect("b", clean=False, expiry=99_999)
    await b.subscribe(guests.at("TopicA/#"), qos=2)
    await b.publish(guests.at("TopicA/B"), "one", 1, packet_id=11)
    await b.publish(guests.at("TopicA/C"), "two", 2, packet_id=12)
    first = [await b.hear(Publish) for _ in range(2)]
    await b.leave()
    b = await guests.connect("b", clean=False, expiry=99_999, present=True)
    again = await exactly(b, 2)
    assert [(m.payload, m.qos, m.dup) for m in again] == [(b"one", 1, True), (b"two", 2, True)]
    assert [m.packet_id for m in again] == [m.packet_id for m in first]


async def test_subscribe_failure(guests: Guests) -> None:
    """A filter that nobody may subscribe to is refused with 0x80, alone, among others or shared."""
    a = await guests.connect("a")
    answer = await a.subscribe("test/nosubscribe", guests.at("TopicA"), "$share/g/test/nosubscribe", qos=2)
    assert answer.reasons == (Reason.UNSPECIFIED_ERROR, Reason.GRANTED_QOS_2, Reason.UNSPECIFIED_ERROR)
    await a.publish("test/nosubscribe", "unheard")
    await a.nothing()


async def test_dollar_topics(guests: Guests) -> None:
    """Wildcards at the beginning match no topic that begins with $, and to publish there ends no connection."""
    b = await guests.connect("b")
    await b.subscribe("#", "+/+", qos=2)
    assert await b.publish("$TopicA/B", "hidden", 1) is Reason.NOT_AUTHORIZED
    await exactly(b, 0)
    await b.ping()


async def test_unsubscribe(guests: Guests) -> None:
    """Of three filters the two that remain bring messages."""
    topics = [guests.at(topic) for topic in ("TopicA", "TopicA/B", "Topic/C")]
    b = await guests.connect("b")
    for topic in topics:
        await b.subscribe(topic, qos=2)
    assert (await b.unsubscribe(topics[0])).reasons == (Reason.SUCCESS,)
    a = await guests.connect("a")
    for topic in topics:
        await a.publish(topic, topic, 1)
    assert bodies(await exactly(b, 2)) == topics[1:]


async def test_session_expiry(guests: Guests) -> None:
    """A session lives on for as long as CONNECT says, or as DISCONNECT says afterwards."""
    topic = guests.at("TopicA")
    a = await guests.connect("a", expiry=0)
    await a.subscribe(topic, qos=2)
    await a.leave()
    a = await guests.connect("a", clean=False, expiry=0, present=False)
    await a.leave()

    a = await guests.connect("a", expiry=1)
    await a.subscribe(topic, qos=2)
    await a.leave()
    await asyncio.sleep(0.2)
    a = await guests.connect("a", clean=False, expiry=1, present=True)
    await a.leave()
    await asyncio.sleep(3)  # it ends with the second that follows; one more for a slow machine
    a = await guests.connect("a", clean=False, expiry=1, present=False)

    await a.subscribe(topic, qos=2)
    await a.leave(properties={"session_expiry": 5})
    await asyncio.sleep(2.2)
    a = await guests.connect("a", clean=False, expiry=1, present=True)
    await a.leave(properties={"session_expiry": 0})
    await guests.connect("a", clean=False, expiry=1, present=False)


async def test_user_properties(guests: Guests) -> None:
    """User properties arrive in their order, at every QoS."""
    a = await guests.connect("a")
    await a.subscribe(guests.at("TopicA"), qos=2)
    await three(a, guests.at("TopicA"), user=USER)
    messages = await exactly(a, 3)
    assert said(messages) == EACH_QOS
    assert [m.properties for m in messages] == [{"user": USER}] * 3


async def test_payload_format(guests: Guests) -> None:
    """Payload format and content type arrive, at every QoS."""
    a = await guests.connect("a")
    await a.subscribe(guests.at("TopicA"), qos=2)
    await three(a, guests.at("TopicA"), payload_format=1, content_type="My name")
    messages = await exactly(a, 3)
    assert said(messages) == EACH_QOS
    assert [m.properties for m in messages] == [{"payload_format": 1, "content_type": "My name"}] * 3


async def test_publication_expiry(guests: Guests) -> None:
    """What expired while its reader was away does not come; what did not says how long it still has."""
    topic = guests.at("TopicA")
    b = await guests.connect("b", expiry=99_999)
    await b.subscribe(topic, qos=2)
    await b.leave(properties={"session_expiry": 999_999_999})
    a = await guests.connect("a")
    for seconds in (1, 6):
        for qos in (1, 2):
            await a.publish(topic, f"{seconds} s, qos {qos}", qos, properties={"message_expiry": seconds})
    await asyncio.sleep(2)
    b = await guests.connect("b", clean=False, present=True)
    messages = await exactly(b, 2)
    assert bodies(messages) == ["6 s, qos 1", "6 s, qos 2"]
    assert all(0 < m.properties["message_expiry"] < 6 for m in messages)


async def test_subscribe_options(guests: Guests) -> None:
    """No Local, Retain As Published and the three ways of Retain Handling."""
    topic = guests.at("TopicA")
    a, b = await guests.connect("a"), await guests.connect("b")
    await a.subscribe(topic, qos=2, no_local=True)
    await b.subscribe(topic, qos=2, no_local=True)
    await a.publish(topic, "no local")
    assert bodies(await exactly(b, 1)) == ["no local"]
    await exactly(a, 0)

    await a.subscribe(topic, qos=2, retain_as_published=True)
    await a.publish(topic, "as published")
    await a.publish(topic, "as published, retained", retain=True)
    assert [m.retain for m in await exactly(a, 2)] == [False, True]

    topics = [guests.at(f"kept/{letter}") for letter in "BCD"]
    await three(b, *topics, retain=True)
    for handling, expected in ((1, (3, 0)), (2, (0, 0)), (0, (3, 3))):
        reader = await guests.connect(f"handling-{handling}")
        for count in expected:
            await reader.subscribe(guests.at("kept/+"), qos=2, retain_handling=handling)
            assert sorted(said(await exactly(reader, count))) == (EACH_QOS if count else [])
    await guests.forget(topic, *topics)


async def test_assigned_clientid(guests: Guests) -> None:
    """Who comes without a name is told the one that it gets."""
    client = await guests.connect("")
    assert client.connack.properties["assigned_client_id"]


async def test_subscribe_identifiers(guests: Guests) -> None:
    """A message says which subscriptions of its reader it belongs to, all of them."""
    topic = guests.at("TopicA")
    a, b = await guests.connect("a"), await guests.connect("b")
    await a.subscribe(topic, qos=2, identifier=456_789)
    await b.subscribe(topic, qos=2, identifier=2)
    await b.subscribe(f"{topic}/#", qos=2, identifier=3)
    await b.publish(topic, "identified")
    (at_a,), (at_b,) = await exactly(a, 1), await exactly(b, 1)
    assert at_a.properties["subscription_ids"] == [456_789]
    assert sorted(at_b.properties["subscription_ids"]) == [2, 3]


async def test_request_response(guests: Guests) -> None:
    """A request carries where to answer and what to answer with; the answer finds its way."""
    topic = guests.at("TopicA")
    a, b = await guests.connect("a"), await guests.connect("b")
    await a.subscribe(topic, qos=2, no_local=True)
    await b.subscribe(topic, qos=2, no_local=True)
    await a.publish(topic, "request", properties={"response_topic": topic, "correlation_data": b"334"})
    request = await b.take()
    assert request.properties == {"response_topic": topic, "correlation_data": b"334"}
    await b.publish(request.properties["response_topic"], "response", properties=request.properties)
    answer = await a.take()
    assert (answer.payload, answer.properties["correlation_data"]) == (b"response", b"334")


async def test_client_topic_alias(guests: Guests) -> None:
    """A client's alias stands for its topic within one connection; 0 is none, and neither is what was not said."""
    topic = guests.at("TopicA")
    a = await guests.connect("a")
    assert a.connack.properties["topic_alias_maximum"] == ALIASES
    broken = bytearray(encode(Publish(topic, b"", 0, properties={"topic_alias": 1}), V5))
    broken[-1] = 0
    a.raw(bytes(broken))
    assert (await a.hear(Disconnect)).reason is Reason.TOPIC_ALIAS_INVALID

    a = await guests.connect("a", expiry=99_999)
    await a.subscribe(topic, qos=2)
    await a.publish(topic, "with its topic", properties={"topic_alias": 1})
    await a.publish("", "with the alias alone", properties={"topic_alias": 1})
    assert [(m.topic, m.payload) for m in await exactly(a, 2)] == [
        *((topic, text) for text in (b"with its topic", b"with the alias alone")),
    ]
    await a.leave()
    a = await guests.connect("a", clean=False, present=True)
    await a.publish(topic, "still subscribed")
    assert bodies(await exactly(a, 1)) == ["still subscribed"]
    a.write(Publish("", b"nowhere", 1, packet_id=3, properties={"topic_alias": 1}))
    assert (await a.hear(Disconnect)).reason in (Reason.PROTOCOL_ERROR, Reason.TOPIC_ALIAS_INVALID)


async def test_server_topic_alias(guests: Guests) -> None:
    """Whoever takes an alias gets one with the first message and no topic afterwards; who takes none gets none."""
    topic = guests.at("TopicA")
    a = await guests.connect("a", topic_alias_maximum=1)
    await a.subscribe(topic, qos=2)
    await three(a, topic)
    found = [(m.topic, m.properties["topic_alias"]) for m in await exactly(a, 3)]
    assert found == [(topic, 1), ("", 1), ("", 1)]
    for who, options in (("b", {}), ("c", {"topic_alias_maximum": 0})):
        client = await guests.connect(who, **options)
        await client.subscribe(topic, qos=2)
        await three(client, topic)
        assert [(m.topic, m.properties) for m in await exactly(client, 3)] == [(topic, {})] * 3


async def test_maximum_packet_size(guests: Guests) -> None:
    """What is larger than the server takes ends the connection; what is larger than a client takes is kept from it."""
    a = await guests.connect("a")
    largest = a.connack.properties["maximum_packet_size"]
    topic = guests.at("A")
    a.raw(b"\x30" + encode_size(largest))
    assert (await a.hear(Disconnect)).reason is Reason.PACKET_TOO_LARGE
    await a.closed()
    a = await guests.connect("a", maximum_packet_size=128)
    await a.subscribe(topic, qos=2)
    await a.publish(topic, "." * 64, 0)
    await a.publish(topic, "." * 128, 1)
    assert [len(m.payload) for m in await exactly(a, 1)] == [64]


def encode_size(size: int) -> bytes:
    """A remaining length."""
    out = bytearray()
    while True:
        size, low = divmod(size, 128)
        out.append(low | (128 if size else 0))
        if not size:
            return bytes(out)


async def test_server_keep_alive(guests: Guests) -> None:
    """Who asks for a longer keep alive than the server grants is told the server's."""
    a = await guests.connect("a", keep_alive=120)
    assert a.connack.properties["server_keep_alive"] == KEEP_ALIVE


async def test_flow_control1(guests: Guests) -> None:
    """No more messages are on their way to a client than it takes; each answer lets one more come."""
    a = await guests.connect("a", receive_maximum=2, expiry=0)
    await a.subscribe(guests.at("TopicA"), qos=2)
    for number in (1, 2, 3):
        await a.publish(guests.at("TopicA"), f"message {number}", packet_id=number)
    first, second = await a.hear(Publish), await a.hear(Publish)
    await a.nothing(within=0.3)
    a.write(puback(first))
    third = await a.hear(Publish)
    a.write(puback(second), puback(third))
    assert bodies([first, second, third]) == ["message 1", "message 2", "message 3"]
    await a.ping()


async def test_flow_control2(guests: Guests) -> None:
    """A client that has more on its way than the server takes is let go, and can read why although it sent more."""
    a = await guests.connect("a")
    assert a.connack.properties["receive_maximum"] == RECEIVE_MAXIMUM
    topic = guests.at("TopicA")
    for number in range(1, RECEIVE_MAXIMUM + 2):
        a.write(Publish(topic, b"message %d" % number, 2, packet_id=number))
    assert (await a.hear(Disconnect)).reason is Reason.RECEIVE_MAXIMUM_EXCEEDED
    assert len([packet for packet in a.heard if isinstance(packet, Ack) and packet.kind is Kind.PUBREC]) <= 20
    await a.closed()


async def test_will_delay(guests: Guests) -> None:
    """A will waits for its delay, or for the end of its session when that comes first."""
    topic = guests.at("TopicA")
    b = await guests.connect("b")
    await b.subscribe(topic, qos=2)
    for delay, expiry, seconds in ((1, 3, 1.0), (5, 0, 0.0), (5, 1, 1.0)):
        will = Will(topic, f"{delay} and {expiry}".encode(), properties={"will_delay": delay})
        a = await guests.connect("a", expiry=expiry, will=will)
        begun = monotonic()
        await a.lost()
        assert (await b.take()).payload == will.payload
        assert seconds <= monotonic() - begun < seconds + 2


async def test_shared_subscriptions(guests: Guests) -> None:
    """A message goes to everyone who subscribes, and to one of those who share."""
    plain, shared = guests.at("TopicA"), guests.at("x")
    a, b = await guests.connect("a"), await guests.connect("b")
    for client in (a, b):
        await client.subscribe(f"$share/{guests.name}/{shared}", plain, qos=2)
    await b.publish(plain, "to all", 0)
    assert [bodies(await exactly(client, 1)) for client in (a, b)] == [["to all"]] * 2
    await b.publish(shared, "to one", 1)
    for client in (a, b):
        await client.ping()
    await asyncio.sleep(0.1)
    assert bodies([packet for client in (a, b) for packet in client.heard if isinstance(packet, Publish)]) == ["to one"]
