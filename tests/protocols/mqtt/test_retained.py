"""Retained messages: in the store of the broker, for who comes later."""

import asyncio
from pathlib import Path

import pytest

from broker.core.retained import Retained
from broker.limits import Limits
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import V5, V311, Ack, Publish, Request, Suback, Subscribe
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.mqtt.door import SHORT, Door, open_door


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_it_comes_to_a_new_subscription_with_the_flag(door: Door, version: int, qos: int) -> None:
    writer = await door.connect("w", version)
    await writer.publish("a/b", "kept", qos, retain=True)
    await writer.ping()
    await door.world.quiet()
    reader = await door.connect("r", version)
    await reader.subscribe("a/+", qos=1)
    packet = await reader.take()
    assert (packet.payload, packet.retain, packet.qos) == (b"kept", True, min(1, qos))
    await writer.publish("a/b", "live", 1, retain=True)
    assert not (await reader.take()).retain


@pytest.mark.statement("MQTT-3.3.1-5")
async def test_it_outlives_the_process_with_its_properties(door: Door) -> None:
    writer = await door.connect("w")
    said = {"content_type": "t", "user": [("a", "1"), ("a", "2")], "correlation_data": b"c"}
    await writer.publish("a", "kept", 2, retain=True, properties=said)  # type: ignore[arg-type]
    await door.crash()
    reader = await door.connect("r")
    await reader.subscribe("a", qos=2)
    packet = await reader.take()
    assert (packet.payload, packet.retain, packet.qos, packet.properties) == (b"kept", True, 2, said)


@pytest.mark.statement("MQTT-3.3.1-6", "MQTT-3.3.1-7")
async def test_an_empty_one_deletes(door: Door) -> None:
    writer = await door.connect("w")
    await writer.publish("a", "kept", retain=True)
    await writer.publish("a", "", retain=True)
    reader = await door.connect("r")
    await reader.subscribe("a")
    await reader.nothing()
    assert not await door.hub.engine.keys("mqtt/retained/")


@pytest.mark.statement("MQTT-3.3.1-8")
async def test_one_that_is_not_retained_leaves_it_as_it_is(door: Door) -> None:
    writer = await door.connect("w")
    await writer.publish("a", "kept", retain=True)
    for qos in range(3):
        await writer.publish("a", "passing", qos)
        await writer.publish("b", "passing", qos)
    await writer.publish("a", "")
    reader = await door.connect("r")
    await reader.subscribe("a", "b")
    assert await reader.bodies(1) == ["kept"]
    await reader.nothing()


@pytest.mark.parametrize("expiry", [0, 60])
@pytest.mark.statement("MQTT-3.8.4-4")
async def test_a_filter_put_again_brings_it_again_and_loses_nothing(door: Door, expiry: int) -> None:
    writer, reader = await door.connect("w"), await door.connect("r", expiry=expiry)
    await writer.publish("a/kept", "kept", retain=True)
    await reader.subscribe("a/#")
    assert await reader.bodies(1) == ["kept"]
    for i in range(20):
        writer.write(Publish("a/live", str(i).encode(), 1, packet_id=i + 1))
        if i % 4 == 0:
            reader.write(Subscribe(i + 1, (Request("a/#", 1, retain_handling=0),)))
        await asyncio.sleep(0.001)
    found = await reader.bodies(25)
    assert found.count("kept") == 5
    assert [body for body in found if body != "kept"] == [str(i) for i in range(20)]


@pytest.mark.statement("MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11")
async def test_retain_handling(door: Door) -> None:
    writer, reader = await door.connect("w"), await door.connect("r")
    await writer.publish("a", "kept", retain=True)
    await reader.subscribe("a", retain_handling=2)
    await reader.nothing()
    await reader.subscribe("a", retain_handling=1)
    await reader.nothing()
    await reader.subscribe("a", retain_handling=0)
    assert (await reader.take()).retain
    await reader.unsubscribe("a")
    await reader.subscribe("a", retain_handling=1)
    assert (await reader.take()).retain


@pytest.mark.statement("MQTT-3.3.1-12", "MQTT-3.3.1-13")
async def test_retain_as_published(door: Door) -> None:
    writer, reader, plain = await door.connect("w"), await door.connect("r"), await door.connect("p")
    await reader.subscribe("a", retain_as_published=True)
    await plain.subscribe("a")
    await writer.publish("a", "kept", retain=True)
    await writer.publish("a", "not", retain=False)
    assert [(await reader.take()).retain for _ in range(2)] == [True, False]
    assert [(await plain.take()).retain for _ in range(2)] == [False, False]


async def test_it_expires(door: Door) -> None:
    writer = await door.connect("w")
    await writer.publish("a", "short", retain=True, properties={"message_expiry": 5})
    await door.advance(2)
    reader = await door.connect("r")
    await reader.subscribe("a")
    assert (await reader.take()).properties["message_expiry"] == 3
    await door.advance(4)
    await reader.subscribe("a")
    await reader.nothing()
    door.hub.retained.sweep()
    await door.world.quiet()
    assert not await door.hub.engine.keys("mqtt/retained/")
    assert len(door.hub.retained) == 0


@pytest.mark.parametrize("first", ["publish", "sweep"])
async def test_what_takes_the_place_of_an_expired_one_is_not_swept(door: Door, first: str) -> None:
    writer = await door.connect("w")
    await writer.publish("a", "short", retain=True, properties={"message_expiry": 5})
    await writer.publish("b", "short", retain=True, properties={"message_expiry": 5})
    door.world.clock.move(6)
    if first == "sweep":
        door.hub.retained.sweep()
    door.comes("w", Publish("a", b"new", 1, retain=True, packet_id=1))
    if first == "publish":
        door.hub.retained.sweep()
    await door.world.quiet()
    assert await door.hub.engine.keys("mqtt/retained/") == ["mqtt/retained/a"]
    assert list(door.hub.retained.matched("#")) == ["a"]
    await door.crash()
    reader = await door.connect("r")
    await reader.subscribe("a")
    assert (await reader.take()).payload == b"new"


async def test_with_shared_subscriptions_nothing_retained_comes(door: Door) -> None:
    writer, reader = await door.connect("w"), await door.connect("r")
    await writer.publish("a", "kept", retain=True)
    await reader.subscribe("$share/g/a")
    await reader.nothing()


async def test_there_is_a_cap(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(retained_messages=2, retained_bytes=2_000)) as door:
        writer = await door.connect("w")
        for topic in "ab":
            assert await writer.publish(topic, "x", retain=True) is Reason.SUCCESS
        assert await writer.publish("c", "x", retain=True) is Reason.QUOTA_EXCEEDED
        assert await writer.publish("a", "x" * 2_000, retain=True) is Reason.QUOTA_EXCEEDED
        assert await writer.publish("a", "y", retain=True) is Reason.SUCCESS
        assert await writer.publish("a", "", retain=True) is Reason.SUCCESS
        assert await writer.publish("c", "x", retain=True) is Reason.SUCCESS


async def test_more_than_the_window_comes_as_it_is_answered(door: Door) -> None:
    writer = await door.connect("w")
    for i in range(10):
        await writer.publish(f"a/{i}", str(i), retain=True)
    reader = await door.connect("r", receive_maximum=3)
    await reader.subscribe("a/#")
    first = [await reader.hear(Publish) for _ in range(3)]
    await reader.nothing()
    for packet in first:
        await reader.answer(packet)
    rest = await reader.bodies(7)
    assert sorted([packet.payload.decode() for packet in first] + rest) == [str(i) for i in range(10)]


async def test_more_than_the_socket_takes_comes_as_it_is_read(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(max_unsent_per_connection=1 << 20)) as door:
        writer = await door.connect("w")
        for i in range(60):
            await writer.publish(f"a/{i}", str(i) * 100_000, retain=True)
        reader = await door.connect("r")
        await reader.subscribe("a/#", qos=0)
        await asyncio.sleep(SHORT)
        heard = [await reader.hear(Publish) for _ in range(60)]
        assert sorted(packet.payload for packet in heard) == sorted(str(i).encode() * 100_000 for i in range(60))


async def test_the_same_filter_over_and_over_costs_no_memory_for_each(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(max_filters=10)) as door:
        writer = await door.connect("w")
        for i in range(20):
            await writer.publish(f"a/{i}", "x", retain=True)
        reader = await door.connect("r", receive_maximum=1)
        await reader.subscribe("a/#")
        reader.write(*(Subscribe(i, (Request("a/#", 1),)) for i in range(2, 32)))
        answers = [(await reader.hear(Suback)).reasons[0] for _ in range(30)]
        assert answers[0] is Reason.GRANTED_QOS_1
        assert answers[-1] is Reason.QUOTA_EXCEEDED
        sender = door.server.sessions.find("r").sender  # type: ignore[union-attr]
        assert sender is not None
        assert sender.waiting < 20
        assert len(await reader.bodies(20 * (1 + answers.count(Reason.GRANTED_QOS_1)))) > 100
        await reader.nothing()


async def test_a_kept_session_that_is_cut_off_while_they_come_has_the_rest_when_it_is_back(door: Door) -> None:
    """They are pending as all that it has not had yet; a subscription that is there already brings none (§4.1)."""
    writer = await door.connect("w")
    for name in ("a/1", "a/2", "a/3", "b/1", "c/1"):
        await writer.publish(name, name, retain=True)
    reader = await door.connect("r", expiry=60, receive_maximum=1)
    reader.write(Subscribe(1, tuple(Request(text, 1) for text in ("a/#", "b/#", "c/#"))))
    first = await reader.hear(Publish)
    await reader.lost()
    await writer.publish("a/3", "", retain=True)
    reader = await door.connect("r", clean=False, present=True, expiry=60, receive_maximum=1)
    again = await reader.hear(Publish)
    await reader.unsubscribe("c/#")
    assert (again.payload, again.dup, again.packet_id) == (first.payload, True, first.packet_id)
    await reader.lost()
    reader = await door.connect("r", clean=False, present=True)
    await reader.subscribe("a/#", retain_handling=1)
    came = [await reader.take() for _ in range(4)]
    assert sorted(packet.payload for packet in came if packet.retain) == [b"a/1", b"a/2", b"b/1"]
    assert [packet.payload for packet in came if not packet.retain] == [b""]
    await reader.nothing()


async def test_those_in_flight_come_again_as_the_client_takes_them(door: Door) -> None:
    writer = await door.connect("w")
    for name in ("a/1", "a/2", "a/3"):
        await writer.publish(name, name, 2, retain=True)
    reader = await door.connect("r", expiry=60, receive_maximum=3)
    await reader.subscribe("a/#", qos=2)
    first = [await reader.hear(Publish) for _ in range(3)]
    await reader.lost()
    reader = await door.connect("r", clean=False, present=True, expiry=60, receive_maximum=1)
    await writer.publish("a/4", "live", 2)
    for sent in first:
        again = await reader.hear(Publish)
        assert again == sent._replace(dup=True)
        await reader.nothing()
        await reader.answer(again)
    assert (await reader.take()).payload == b"live"


async def test_an_identifier_of_qos_2_that_is_in_flight_at_a_crash_is_released(door: Door) -> None:
    """The client may have it, and would take a later message under it for a repetition."""
    writer = await door.connect("w")
    await writer.publish("a", "kept", 2, retain=True)
    reader = await door.connect("r", expiry=60)
    await reader.subscribe("a", qos=2)
    sent = await reader.hear(Publish)
    await door.crash()
    reader = await door.connect("r", clean=False, present=True, expiry=60)
    release = await reader.hear(Ack)
    assert (release.kind, release.packet_ids) == (Kind.PUBREL, (sent.packet_id,))
    reader.write(Ack(Kind.PUBCOMP, release.packet_ids))
    await reader.ping()
    await reader.lost()
    reader = await door.connect("r", clean=False, present=True)
    await reader.nothing(Ack)


async def test_others_have_their_turn_while_much_is_sent(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for i in range(3_000):
            door.hub.retained._retained.put((0, f"a/{i}", 0, None, b"x"))
        reader = await door.connect("r")
        door.comes("r", Subscribe(1, tuple(Request(text, 1) for text in ("a/#", "+/#", "#"))))
        sender = door.server.sessions.find("r").sender  # type: ignore[union-attr]
        assert sender is not None
        assert sender.waiting > 1_000
        assert sender.asked_for == 2
        assert len(await reader.bodies(9_000)) == 9_000


@pytest.mark.statement("MQTT-4.7.2-1")
def test_filters_find_what_they_match() -> None:
    retained = Retained(100, 1 << 20)
    for topic in ("a", "a/b", "a/b/c", "b", "$s/x", "a/", "/a"):
        retained.put((1, topic, 0, None, topic.encode()))
    found = {
        "#": {"a", "a/b", "a/b/c", "b", "a/", "/a"},
        "+": {"a", "b"},
        "a/#": {"a", "a/b", "a/b/c", "a/"},
        "+/b": {"a/b"},
        "a/+": {"a/b", "a/"},
        "$s/#": {"$s/x"},
        "$s/+": {"$s/x"},
        "+/+": {"a/b", "a/", "/a"},
        "a/b": {"a/b"},
        "none": set(),
    }
    assert {text: {row[1] for row in retained.matching(text, 0)} for text in found} == found
    for topic in list(retained._kept):
        retained.put((1, topic, 0, None, b""))
    assert (len(retained), retained.size, retained._root.below) == (0, 0, {})


async def test_of_a_topic_that_is_in_no_log(door: Door) -> None:
    writer = await door.connect("w")
    for qos in (0, 1):
        await writer.publish("$reply/a", f"kept {qos}", qos, retain=True)
    await writer.ping()
    await door.world.quiet()
    reader = await door.connect("r")
    await reader.subscribe("$reply/a", qos=1)
    packet = await reader.take()
    assert (packet.payload, packet.retain, packet.qos) == (b"kept 1", True, 1)
