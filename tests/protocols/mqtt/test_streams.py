"""`$stream/NAME` and `$stream/FILTER`: the log read again, and on."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError
from broker.core.position import Start
from broker.protocols.mqtt.codec import codes
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import (
    V311,
    Ack,
    Disconnect,
    Properties,
    Publish,
    Request,
    Suback,
    Subscribe,
)
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.streams import start_of
from tests.protocols.mqtt.door import Client, Door, open_door
from tests.protocols.mqtt.test_kept import kept
from tests.protocols.mqtt.test_queues import noted, why
from tests.protocols.mqtt.test_rights import Guarded, guarded  # noqa: F401

DAY = 86_400


def asking(*starts: str) -> Properties:
    return {"user": [("stream-offset", start) for start in starts]}


async def read(client: Client, text: str, *starts: str, qos: int = 1) -> Suback:
    client.write(Subscribe(3, (Request(f"$stream/{text}", qos),), asking(*starts)))
    return await client.hear(Suback)


def told(suback: Suback) -> list[tuple[str, str]]:
    return suback.properties["user"]


async def unheard(client: Client, count: int) -> list[str]:
    """Bodies of the next messages, which are not answered."""
    return [(await client.hear(Publish)).payload.decode() for _ in range(count)]


# Where it begins


NOW = 1_795_424_400_000


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", Start("earliest")),
        ("latest", Start("latest")),
        ("17", Start("offset", 17)),
        ("abc.17", Start("after", 17, "abc")),
        ("2026-11-23T09:00:00Z", Start("time", NOW)),
        ("-24h", Start("time", NOW - DAY * 1000)),
        ("-500ms", Start("time", NOW - 500)),
        ("-99999d", Start("time", 0)),
    ],
)
def test_where_to_begin_is_written_as_at_other_doors_or_as_an_age(text: str, start: Start) -> None:
    assert start_of(asking(text), NOW) == start


def test_it_may_be_left_out_and_is_said_once() -> None:
    assert start_of({}, NOW) is None
    assert start_of({"user": [("other", "earliest")]}, NOW) is None
    with pytest.raises(BrokerError, match="2 times"):
        start_of(asking("1", "2"), NOW)


@given(st.one_of(st.text(), st.from_regex(r"-?[0-9.]{1,9}(ms|s|m|h|d|T|Z|-)?")))
def test_any_text_is_a_start_or_told_why_not(text: str) -> None:
    with suppress(BrokerError):
        assert start_of(asking(text), NOW) is not None


@pytest.mark.parametrize("text", ["yesterday", "-", "-5", "-1y", "", "1e9", "2026-11-23T09:00:00"])
async def test_a_start_that_is_none_is_refused_in_words(door: Door, text: str) -> None:
    client = await door.connect("c")
    suback = await read(client, "a/#", text)
    assert suback.reasons == (Reason.IMPLEMENTATION_SPECIFIC_ERROR,)
    assert "$stream/a/#: " in why(suback)
    assert "user" not in suback.properties


@pytest.mark.parametrize("text", ["", "$queue/a", "$SYS/broker/#", "$stream/a"])
async def test_what_is_no_filter_of_the_log_is_refused(door: Door, text: str) -> None:
    client = await door.connect("c")
    suback = await read(client, text, "earliest")
    assert suback.reasons == (Reason.TOPIC_FILTER_INVALID,)


@pytest.mark.parametrize(
    ("start", "bodies"),
    [
        ("earliest", "abcd"),
        ("{second}", "bcd"),
        ("{epoch}.{second}", "cd"),
        ("{when}", "cd"),
        ("-90s", "cd"),
        ("-1d", "abcd"),
        ("latest", "d"),
    ],
)
async def test_it_begins_where_it_was_asked_to_and_goes_on_live(door: Door, start: str, bodies: str) -> None:
    world = door.world
    await world.publish("a/1", "a")
    second = (await world.publish("a/2", "b")).offset
    await world.publish("b", "not this")
    await world.advance(60)
    when = datetime.fromtimestamp(world.clock.wall(), UTC).isoformat()
    await world.publish("a/3", "c")
    await world.advance(60)
    client = await door.connect("c")
    suback = await read(client, "a/+", start.format(second=second, epoch=world.engine.epoch, when=when))
    assert suback.reasons == (Reason.GRANTED_QOS_1,)
    assert dict(told(suback))["stream-recovered"] == "true"
    await client.ping()
    await world.publish("a/4", "d")
    assert await client.bodies(len(bodies)) == list(bodies)
    await client.nothing()


async def test_each_message_says_where_to_come_back(door: Door) -> None:
    world = door.world
    receipt = await world.publish("a", "x", "y", "z", key="k")
    client = await door.connect("c")
    suback = await read(client, "a", "earliest")
    assert told(suback) == [("stream-recovered", "true"), ("stream-position", f"{world.engine.epoch}.0")]
    first = await client.take()
    assert noted(first) == {
        "stream-offset": str(receipt.offset),
        "stream-position": f"{world.engine.epoch}.{receipt.offset}",
        "postroom-key": "k",
    }
    await client.leave()
    client = await door.connect("c")
    suback = await read(client, "a", noted(first)["stream-position"])
    assert told(suback) == [("stream-recovered", "true"), ("stream-position", noted(first)["stream-position"])]
    assert await client.bodies(2) == ["y", "z"]


async def test_a_position_that_is_not_there_any_more_is_told(door: Door) -> None:
    world = door.world
    receipt = await world.publish("a", "old")
    await world.advance(2 * DAY)
    await world.publish("a", "new")
    await world.advance(60)
    for start in ("strange.17", f"{world.engine.epoch}.{receipt.offset - 1}", str(receipt.offset)):
        client = await door.connect("c")
        suback = await read(client, "a", start)
        assert suback.reasons == (Reason.GRANTED_QOS_1,)
        assert dict(told(suback))["stream-recovered"] == "false"
        packet = await client.take()
        assert packet.payload == b"new"
        assert "stream-recovered" not in noted(packet)
        await client.leave()


async def test_several_in_one_packet_begin_alike_and_each_says_where(door: Door) -> None:
    await door.world.publish("a", "a")
    await door.world.publish("b", "b")
    client = await door.connect("c")
    requests = (Request("$stream/a", 1), Request("a", 1), Request("$stream/#/", 1), Request("$stream/#", 0))
    client.write(Subscribe(3, requests[:2] + requests[3:], asking("earliest")))
    suback = await client.hear(Suback)
    assert [name for name, _ in told(suback)] == ["stream-recovered", "stream-position"] * 2
    packets = [await client.take() for _ in range(3)]
    assert sorted((packet.payload, packet.qos) for packet in packets) == [(b"a", 0), (b"a", 1), (b"b", 0)]


async def test_an_older_client_reads_from_now_on(door: Door) -> None:
    await door.world.publish("a", "before")
    client = await door.connect("c", V311)
    assert (await client.subscribe("$stream/a")).reasons == (Reason.GRANTED_QOS_1,)
    await door.world.publish("a", "after")
    packet = await client.take()
    assert (packet.payload, packet.qos) == (b"after", 1)


async def test_what_is_retained_is_none_of_it_and_what_qos_0_says_is(door: Door) -> None:
    client = await door.connect("c")
    await client.publish("a", "kept", retain=True)
    await read(client, "a")
    await client.nothing()
    await client.publish("a", "light", 0)
    packet = await client.take()
    assert (packet.payload, packet.qos) == (b"light", 1)


async def test_dead_letters_are_read_from_the_first(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client = await door.connect("c")
    await client.subscribe("$queue/jobs")
    await door.world.publish("jobs", "bad")
    packet = await client.hear(Publish)
    client.write(Ack(codes.Kind.PUBACK, (packet.packet_id,), Reason.PAYLOAD_FORMAT_INVALID))
    await client.ping()
    await door.world.quiet()
    await read(client, "$dead/jobs", "earliest")
    dead = await client.take()
    assert (dead.topic, dead.payload, noted(dead)["postroom-topic"]) == ("$dead/jobs", b"bad", "jobs")


# Flow


@pytest.mark.parametrize("qos", [0, 1])
async def test_it_comes_in_order_whatever_the_credit(door: Door, qos: int) -> None:
    await door.world.publish("a", *map(str, range(3_000)))
    client = await door.connect("c", receive_maximum=7)
    await read(client, "a", "earliest", qos=qos)
    bodies = await client.bodies(2_000)
    await door.world.publish("a", *map(str, range(3_000, 3_500)))
    bodies += await client.bodies(1_500)
    assert bodies == [str(i) for i in range(3_500)]


async def test_no_more_than_the_receive_maximum_is_unanswered(door: Door) -> None:
    await door.world.publish("a", *map(str, range(50)))
    client = await door.connect("c", receive_maximum=3)
    await read(client, "a", "earliest")
    assert await unheard(client, 3) == ["0", "1", "2"]
    await client.nothing()


# Coming back


async def test_a_session_that_is_kept_goes_on_behind_what_it_answered(door: Door) -> None:
    client = await kept(door)
    await read(client, "a")
    await door.world.publish("a", "a", "b", "c")
    packets = [await client.hear(Publish) for _ in range(3)]
    await client.answer(packets[0])
    await client.answer(packets[2])  # out of order: what is before it was not answered
    await client.leave()
    await door.world.publish("a", "d")
    client = await kept(door, present=True)
    assert await client.bodies(3) == ["b", "c", "d"]
    await client.leave()
    client = await kept(door, present=True)
    await client.nothing()


async def test_after_a_crash_it_goes_on_where_it_was_kept_last(door: Door) -> None:
    client = await kept(door)
    await read(client, "a")
    await door.world.publish("a", "a", "b")
    assert await client.bodies(2) == ["a", "b"]
    await client.ping()
    door.server.sessions.keep_places()
    await door.world.publish("a", "c")
    assert await client.bodies(1) == ["c"]
    await client.ping()
    await door.world.quiet()
    await door.crash()
    client = await kept(door, present=True)
    assert await client.bodies(1) == ["c"]
    await client.nothing()


async def test_where_it_stands_is_kept_every_minute(door: Door) -> None:
    client = await kept(door)
    await read(client, "a")
    await door.world.publish("a", "a")
    await client.bodies(1)
    await client.ping()
    for _ in range(60):
        door.server.tick()
    await door.world.quiet()
    await door.crash()
    client = await kept(door, present=True)
    await client.nothing()


async def test_a_planned_stop_keeps_where_it_stands(door: Door) -> None:
    client = await kept(door)
    await read(client, "a", "earliest")
    await door.world.publish("a", "a")
    await client.bodies(1)
    await client.ping()
    await door.stop()
    await door.world.restart()
    await door.start()
    client = await kept(door, present=True)
    await client.nothing()
    await door.world.publish("a", "b")
    assert await client.bodies(1) == ["b"]


async def test_one_that_began_by_time_and_answered_nothing_begins_by_time_again(door: Door) -> None:
    await door.world.publish("a", "old")
    await door.world.advance(60)
    await door.world.publish("a", "young")
    client = await kept(door)
    await read(client, "a", "-30s")
    assert await unheard(client, 1) == ["young"]
    await door.crash()
    client = await kept(door, present=True)
    assert await client.bodies(1) == ["young"]
    await client.nothing()


async def test_what_was_removed_meanwhile_is_told_by_the_next_message(door: Door) -> None:
    client = await kept(door, expiry=10 * DAY)
    await read(client, "a")
    await client.leave()
    await door.world.publish("a", "old")
    await door.advance(2 * DAY)
    await door.world.publish("a", "new", "newer")
    await door.advance(60)
    client = await kept(door, present=True, expiry=10 * DAY)
    first, second = await client.take(), await client.take()
    assert (first.payload, noted(first)["stream-recovered"]) == (b"new", "false")
    assert "stream-recovered" not in noted(second)


async def test_subscribing_again_goes_on_unless_it_says_where(door: Door) -> None:
    client = await kept(door)
    await read(client, "a")
    await door.world.publish("a", "a")
    await client.bodies(1)
    await client.leave()
    await door.world.publish("a", "b")
    client = await kept(door, present=True, receive_maximum=1)
    suback = await read(client, "a")
    assert dict(told(suback))["stream-recovered"] == "true"
    assert await unheard(client, 1) == ["b"]
    await read(client, "a", "earliest")
    await client.nothing()  # the identifier of b is not free
    client.write(Ack(codes.Kind.PUBACK, (2,)), Ack(codes.Kind.PUBACK, (1,)))
    assert await client.bodies(2) == ["a", "b"]


async def test_a_start_that_cannot_be_kept_changes_nothing(door: Door) -> None:
    client = await kept(door)
    await read(client, "a")
    await door.world.publish("a", "a", "b")
    assert await client.bodies(2) == ["a", "b"]
    door.hub.engine.disk_low = "the test says so"  # type: ignore[attr-defined]
    assert (await read(client, "a", "earliest")).reasons == (Reason.QUOTA_EXCEEDED,)
    assert (await read(client, "b", "earliest")).reasons == (Reason.QUOTA_EXCEEDED,)
    await client.nothing()
    door.hub.engine.disk_low = ""  # type: ignore[attr-defined]
    await door.world.publish("b", "x")
    await door.world.publish("a", "c")
    assert await client.bodies(1) == ["c"]
    await client.nothing()


async def test_who_unsubscribes_hears_no_more(door: Door) -> None:
    await door.world.publish("a", *map(str, range(10)))
    client = await door.connect("c", receive_maximum=2)
    await read(client, "a", "earliest")
    held = [await client.hear(Publish) for _ in range(2)]
    assert (await client.unsubscribe("$stream/a")).reasons == (Reason.SUCCESS,)
    for packet in held:
        await client.answer(packet)
    await client.nothing()
    assert (await client.unsubscribe("$stream/a")).reasons == (Reason.NO_SUBSCRIPTION_EXISTED,)


# Streams with a name


@pytest.fixture
async def stream(door: Door) -> Door:
    await door.world.subscribe("audit", "a/#", kind="stream")
    await door.world.publish("a/1", "a", "b", "c")
    return door


async def test_a_cursor_moves_by_puback_and_is_on_disk(stream: Door) -> None:
    client = await stream.connect("c")
    suback = await read(client, "audit")
    assert dict(told(suback))["stream-recovered"] == "true"
    assert await client.bodies(2) == ["a", "b"]
    await client.ping()
    await stream.world.quiet()
    await stream.crash()
    other = await stream.connect("other", V311)
    await other.subscribe("$stream/audit")
    assert await other.bodies(1) == ["c"]


async def test_a_cursor_waits_for_what_was_sent_before(stream: Door) -> None:
    client = await stream.connect("c")
    await read(client, "audit")
    packets = [await client.hear(Publish) for _ in range(3)]
    before = stream.world.info("audit").floor
    for packet in (packets[2], packets[1]):
        await client.answer(packet)
    await client.ping()
    assert stream.world.info("audit").floor == before
    await client.answer(packets[0])
    await client.ping()
    assert stream.world.info("audit").lag == 0


async def test_a_refusal_passes_over_the_message(stream: Door) -> None:
    client = await stream.connect("c")
    await read(client, "audit")
    for packet in [await client.hear(Publish) for _ in range(3)]:
        client.write(Ack(codes.Kind.PUBACK, (packet.packet_id,), Reason.UNSPECIFIED_ERROR))
    await client.ping()
    assert stream.world.info("audit").lag == 0


async def test_what_is_no_place_in_the_log_is_refused_with_all_that_are(door: Door) -> None:
    client = await door.connect("c")
    suback = await read(client, "a/#", "yesterday")
    assert suback.reasons == (Reason.IMPLEMENTATION_SPECIFIC_ERROR,)
    assert "'yesterday' is none; here also an age, such as -24h" in why(suback)


async def test_with_qos_0_a_cursor_stays(stream: Door) -> None:
    client = await stream.connect("c")
    await read(client, "audit", qos=0)
    assert await client.bodies(3) == ["a", "b", "c"]
    await client.leave()
    assert stream.world.info("audit").lag == 3


async def test_a_cursor_is_not_told_where_to_begin(stream: Door) -> None:
    client = await stream.connect("c")
    suback = await read(client, "audit", "earliest")
    assert suback.reasons == (Reason.IMPLEMENTATION_SPECIFIC_ERROR,)
    assert "leave out stream-offset" in why(suback)
    assert (await client.subscribe("$stream/audit", no_local=True)).reasons != (Reason.GRANTED_QOS_1,)


async def test_a_kept_session_reads_its_named_stream_on(stream: Door) -> None:
    client = await kept(stream)
    await read(client, "audit")
    assert await client.bodies(2) == ["a", "b"]
    await client.leave()
    await stream.world.quiet()
    await stream.crash()
    client = await kept(stream, present=True)
    assert await client.bodies(1) == ["c"]
    await stream.hub.engine.delete_subscription("audit")
    assert "audit was deleted" in (await client.hear(Disconnect)).properties["reason_string"]
    client = await kept(stream, present=True)
    assert (await client.unsubscribe("$stream/audit")).reasons == (Reason.NO_SUBSCRIPTION_EXISTED,)


async def test_a_queue_of_that_name_does_not_hide_the_topic(door: Door) -> None:
    await door.world.subscribe("orders", "orders")
    await door.world.publish("orders", "x")
    client = await door.connect("c")
    await read(client, "orders", "earliest")
    assert await client.bodies(1) == ["x"]


# Limits and rights


async def test_they_count_as_filters(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(max_filters=2)) as door:
        client = await door.connect("c")
        suback = await client.subscribe("$stream/a", "$stream/b", "$stream/c")
        assert suback.reasons == (Reason.GRANTED_QOS_1, Reason.GRANTED_QOS_1, Reason.QUOTA_EXCEEDED)


async def test_what_nobody_may_subscribe_to_nobody_may_read(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(refused_filters=frozenset(["#"]))) as door:
        client = await door.connect("c")
        assert (await read(client, "#")).reasons == (Reason.UNSPECIFIED_ERROR,)


async def test_it_needs_the_right_to_consume(guarded: Guarded) -> None:  # noqa: F811
    world = guarded.door.world
    await world.subscribe("audit", "a/#", kind="stream")
    await world.publish("a/b", "x")
    bob = await guarded.connect("bob")
    for text in ("a/#", "audit", "c"):
        suback = await read(bob, text)
        assert suback.reasons == (Reason.NOT_AUTHORIZED,)
        assert "user" not in suback.properties
    await read(bob, "a/b", "earliest")
    assert await bob.bodies(1) == ["x"]
    await guarded.grant("bob", "consume subscription:audit")
    await read(bob, "audit")
    assert await bob.bodies(1) == ["x"]


@pytest.mark.parametrize(("text", "grant"), [("a/b", "consume a/b"), ("audit", "consume subscription:audit")])
async def test_a_right_that_goes_ends_the_reading(guarded: Guarded, text: str, grant: str) -> None:  # noqa: F811
    world = guarded.door.world
    await world.subscribe("audit", "a/#", kind="stream")
    await guarded.grant("bob", grant)
    bob = await guarded.connect("bob", clean=False, expiry=100)
    assert (await read(bob, text)).reasons == (Reason.GRANTED_QOS_1,)
    await guarded.revoke("bob", grant)
    assert (await bob.hear(Disconnect)).reason is Reason.NOT_AUTHORIZED
    bob = await guarded.connect("bob", clean=False, expiry=100, present=True)
    await world.publish("a/b", "secret")
    await bob.nothing()
