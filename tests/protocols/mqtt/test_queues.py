"""`$queue/NAME[/FILTER]`: clients as workers of a queue, beside those of other doors."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError
from broker.core.subscription import Kind, Outcome
from broker.protocols.mqtt import queues
from broker.protocols.mqtt.codec import codes
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import V5, V311, Ack, Disconnect, Publish, Request, Suback, Subscribe
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.queues import Address, address_of
from tests.protocols.mqtt.door import Client, Door, open_door
from tests.protocols.mqtt.test_kept import kept
from tests.protocols.mqtt.test_rights import Guarded, guarded  # noqa: F401

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
LEVELS = st.one_of(st.just("+"), st.text("abc$ .", max_size=5))


def why(suback: Suback) -> str:
    return suback.properties["reason_string"]


def noted(packet: Publish) -> dict[str, str]:
    return dict(packet.properties.get("user", []))


async def worker(door: Door, name: str = "jobs", client_id: str = "w1", **options: object) -> Client:
    client = await door.connect(client_id, **options)  # type: ignore[arg-type]
    assert (await client.subscribe(f"$queue/{name}")).reasons == (Reason.GRANTED_QOS_1,)
    return client


async def refuse(client: Client, packet: Publish, reason: Reason, said: str = "") -> None:
    client.write(Ack(codes.Kind.PUBACK, (packet.packet_id,), reason, {"reason_string": said} if said else {}))
    await client.ping()


# What a filter says


@given(NAMES, st.lists(LEVELS, min_size=1, max_size=5))
def test_the_first_slash_ends_the_name(name: str, levels: list[str]) -> None:
    topics = "/".join(levels)
    if topics.startswith(("$queue/", "$stream/", "$share/", "$SYS/")) or not topics:
        return
    assert address_of(f"$queue/{name}/{topics}") == Address(name, topics)
    assert address_of(f"$queue/{name}") == Address(name, "")


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_told_why_not(text: str) -> None:
    with suppress(BrokerError):
        name, topics = address_of(queues.PREFIX + text)
        assert text == (f"{name}/{topics}" if topics else name)


@pytest.mark.parametrize("text", ["", "#", "+/a", "/a", "a b", "a/", "a/$queue/b", "a/$share/g/b", "a/$SYS/#"])
async def test_what_is_no_address_is_refused_in_words(door: Door, text: str) -> None:
    client = await door.connect("c")
    suback = await client.subscribe(f"$queue/{text}", "a")
    assert suback.reasons == (Reason.TOPIC_FILTER_INVALID, Reason.GRANTED_QOS_1)
    assert why(suback).startswith(f"$queue/{text}: Not a topic filter")
    assert not door.hub.engine.subscriptions()


# Subscribing


async def test_a_queue_that_is_not_there_is_not_made_without_a_filter(door: Door) -> None:
    client = await door.connect("c")
    suback = await client.subscribe("$queue/jobs")
    assert suback.reasons == (Reason.IMPLEMENTATION_SPECIFIC_ERROR,)
    assert "$queue/jobs/FILTER makes it" in why(suback)
    old = await door.connect("old", V311)
    assert (await old.subscribe("$queue/jobs")).reasons == (Reason.UNSPECIFIED_ERROR,)


async def test_with_a_filter_it_is_made_once(door: Door) -> None:
    client, writer = await door.connect("c"), await door.connect("w")
    assert (await client.subscribe("$queue/jobs/jobs/+/#", qos=2)).reasons == (Reason.GRANTED_QOS_1,)
    (info,) = door.hub.engine.subscriptions()
    assert (info.spec.name, info.spec.kind, info.spec.topics) == ("jobs", Kind.QUEUE, ("jobs/+/#",))
    await writer.publish("jobs/1", "x")
    assert (await client.take()).topic == "jobs/1"
    await client.leave()
    assert door.hub.engine.subscription("jobs").consumers == 0
    other = await door.connect("other", V311)
    assert (await other.subscribe("$queue/jobs/jobs/+/#")).reasons == (Reason.GRANTED_QOS_1,)


async def test_it_must_be_a_queue_of_that_filter(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs/#")
    await door.world.subscribe("log", "jobs/#", kind="stream")
    client = await door.connect("c")
    suback = await client.subscribe("$queue/jobs/other", "$queue/log", "$queue/jobs/jobs/#")
    assert suback.reasons == (
        Reason.IMPLEMENTATION_SPECIFIC_ERROR,
        Reason.IMPLEMENTATION_SPECIFIC_ERROR,
        Reason.GRANTED_QOS_1,
    )
    assert "the topics of jobs are jobs/#, not other" in why(suback)
    assert "log is a stream: subscribe to $stream/log" in why(suback)


async def test_qos_0_would_settle_nothing_and_no_local_would_leave_messages_behind(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs/#")
    client = await door.connect("c")
    suback = await client.subscribe("$queue/jobs", "$queue/more/a", qos=0)
    assert suback.reasons == (Reason.IMPLEMENTATION_SPECIFIC_ERROR,) * 2
    assert "with QoS 1" in why(suback)
    suback = await client.subscribe("$queue/jobs", no_local=True)
    assert "No Local" in why(suback)
    assert [info.spec.name for info in door.hub.engine.subscriptions()] == ["jobs"]


async def test_a_group_of_a_queue_is_none(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs/#")
    client = await door.connect("c")
    assert (await client.subscribe("$share/g/$queue/jobs")).reasons == (Reason.TOPIC_FILTER_INVALID,)


async def test_they_count_as_filters(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(max_filters=2)) as door:
        client = await door.connect("c")
        suback = await client.subscribe("$queue/a/a", "$queue/b/b", "$queue/c/c")
        assert suback.reasons == (Reason.GRANTED_QOS_1, Reason.GRANTED_QOS_1, Reason.QUOTA_EXCEEDED)
        assert len(door.hub.engine.subscriptions()) == 2


async def test_nobody_publishes_to_one(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs/#")
    client = await door.connect("c")
    for topic in ("$queue/jobs", "$stream/jobs"):
        for qos in (1, 2):
            assert await client.publish(topic, "x", qos) is Reason.NOT_AUTHORIZED
    assert not await door.world.log("#")


# What is delivered


@pytest.mark.parametrize("version", [V311, V5])
async def test_clients_and_a_worker_of_another_door_share_the_work(door: Door, version: int) -> None:
    native = await door.world.queue("jobs", messages=0)
    clients = [await worker(door, "q", f"w{i}", version=version) for i in range(2)]
    native.tie.grant(1_000, 1 << 20)
    await door.world.publish("jobs", *map(str, range(60)))
    await door.world.quiet()
    bodies = [row[4].decode() for row in native.rows]
    native.ack(native.rows)
    for client in clients:
        taken = await client.bodies(20)
        bodies += taken
        await client.nothing()
    assert sorted(bodies, key=int) == [str(i) for i in range(60)]
    assert len(native.rows) == 20
    await door.world.quiet()
    assert not door.world.info("q").lag


async def test_it_is_settled_when_the_puback_comes_and_stays_so(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client = await worker(door)
    await door.world.publish("jobs", "a", "b")
    first = await client.take()
    second = await client.hear(Publish)
    assert (first.payload, second.payload) == (b"a", b"b")
    await client.ping()
    assert door.world.info("jobs").leased == 1
    await door.world.quiet()
    await door.crash()
    client = await worker(door)
    again = await client.hear(Publish)
    assert (again.payload, again.dup, noted(again)["postroom-attempt"]) == (b"b", False, "1")
    await client.nothing()


async def test_each_says_which_attempt_it_is_and_its_place(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client = await door.connect("c")
    await client.subscribe("$queue/jobs", identifier=7)
    receipt = await door.world.publish("jobs", "a", key="k")
    packet = await client.hear(Publish)
    assert noted(packet) == {
        "postroom-attempt": "1",
        "postroom-offset": str(receipt.offset),
        "postroom-key": "k",
    }
    assert (packet.topic, packet.qos, packet.retain, packet.properties["subscription_ids"]) == ("jobs", 1, False, [7])
    await refuse(client, packet, Reason.UNSPECIFIED_ERROR)
    await door.advance(2)
    assert noted(await client.hear(Publish))["postroom-attempt"] == "2"


async def test_it_comes_with_qos_1_whatever_it_was_published_with(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client, writer = await worker(door), await door.connect("w")
    for qos in (0, 1, 2):
        await writer.publish("jobs", str(qos), qos)
        packet = await client.take()
        assert (packet.payload, packet.qos) == (str(qos).encode(), 1)


async def test_a_filter_of_ones_own_beside_it_brings_its_own_copy(door: Door) -> None:
    client = await door.connect("c")
    await client.subscribe("$queue/jobs/jobs/#", identifier=1)
    await client.subscribe("jobs/#", identifier=2, packet_id=2)
    client.write(Publish("jobs/1", b"x", 1, packet_id=3))
    ids = [(await client.take()).properties["subscription_ids"] for _ in range(2)]
    assert sorted(ids) == [[1], [2]]
    await client.nothing()


async def test_what_is_retained_is_none_of_its(door: Door) -> None:
    client = await door.connect("c")
    await client.publish("jobs/1", "kept", retain=True)
    await client.subscribe("$queue/jobs/jobs/#")
    await client.nothing()


async def test_a_topic_alias_shortens_what_repeats(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs/long")
    client = await worker(door, topic_alias_maximum=2)
    await door.world.publish("jobs/long", "a", "b")
    first, second = await client.take(), await client.take()
    assert (first.topic, second.topic) == ("jobs/long", "")
    assert first.properties["topic_alias"] == second.properties["topic_alias"]


# Not done


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (Reason.UNSPECIFIED_ERROR, "retry"),
        (Reason.IMPLEMENTATION_SPECIFIC_ERROR, "retry"),
        (Reason.PACKET_IDENTIFIER_IN_USE, "retry"),
        (Reason.QUOTA_EXCEEDED, "retry"),
        (Reason.NOT_AUTHORIZED, "rejected"),
        (Reason.TOPIC_NAME_INVALID, "rejected"),
        (Reason.PAYLOAD_FORMAT_INVALID, "rejected"),
    ],
)
async def test_a_reason_in_the_puback_retries_or_rejects(door: Door, reason: Reason, outcome: str) -> None:
    await door.world.subscribe("jobs", "jobs", retry={"initial": "10s", "jitter": 0})
    client, watcher = await worker(door), await door.connect("watcher")
    await watcher.subscribe("$dead/#")
    await door.world.publish("jobs", "a")
    await refuse(client, await client.hear(Publish), reason, "no such thing")
    await door.world.quiet()
    info = door.world.info("jobs")
    if outcome == "retry":
        assert (info.delayed, info.dead_letters) == (1, 0)
        await client.nothing()
        await door.advance(11)
        assert noted(await client.take())["postroom-attempt"] == "2"
    else:
        assert (info.lag, info.dead_letters) == (0, 1)
        dead = await watcher.take()
        assert (dead.topic, dead.payload) == ("$dead/jobs", b"a")
        assert noted(dead)["postroom-topic"] == "jobs"
        assert noted(dead)["postroom-failure"].endswith(f"Z rejected: no such thing (0x{reason:02X})")


async def test_no_matching_subscribers_is_done(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client = await worker(door)
    await door.world.publish("jobs", "a")
    await refuse(client, await client.hear(Publish), Reason.NO_MATCHING_SUBSCRIBERS)
    await door.world.quiet()
    assert not door.world.info("jobs").lag


async def test_dead_letters_are_read_and_come_back(door: Door) -> None:
    """With a MQTT client alone: what is rejected is seen in `$dead`, redriven, and comes under its topic again."""
    await door.world.subscribe("jobs", "jobs/#")
    client = await worker(door)
    await door.world.publish("jobs/1", "a")
    await refuse(client, await client.hear(Publish), Reason.PAYLOAD_FORMAT_INVALID)
    await door.world.quiet()
    await door.world.engine.redrive("jobs", 10)
    again = await client.take()
    assert (again.topic, again.payload) == ("jobs/1", b"a")
    assert "postroom-failure" in noted(again)


async def test_what_is_too_large_for_a_client_is_not_lost(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs", retry={"initial": "10s", "jitter": 0})
    client = await worker(door, maximum_packet_size=100)
    await door.world.publish("jobs", "x" * 200, "small")
    assert (await client.take()).payload == b"small"
    await door.world.quiet()
    assert door.world.info("jobs").delayed == 1
    native = door.world.attach("jobs")
    await client.leave()
    await door.advance(11)
    assert len(await native.take(1)) == 1


async def test_what_has_expired_is_not_sent(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client = await worker(door, receive_maximum=1)
    await door.world.publish("jobs", "a")
    first = await client.hear(Publish)
    await door.world.publish("jobs", "b", ttl=1_000)
    await door.world.publish("jobs", "c")
    door.world.clock.move(5)
    await client.answer(first)
    assert (await client.take()).payload == b"c"


async def test_a_lease_that_runs_out_goes_to_another_and_a_late_puback_counts_if_it_can(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs", lease="30s", retry={"initial": 0, "jitter": 0})
    slow = await worker(door, client_id="slow", receive_maximum=1)
    await door.world.publish("jobs", "a")
    packet = await slow.hear(Publish)
    await door.advance(31)
    await slow.nothing()
    native = door.world.attach("jobs")
    (row,) = await native.take(1)
    assert native.attempts_of(row[0]) == (1, 0)
    await slow.answer(packet)  # too late: it is another's now
    await slow.ping()
    assert door.world.info("jobs").leased == 1
    native.settle(Outcome.RELEASE, [row])
    native.tie.detach()
    again = await slow.hear(Publish)
    assert noted(again)["postroom-attempt"] == "2"
    door.world.clock.move(31)
    await door.world.engine.tick()
    await slow.answer(again)
    await slow.ping()
    await door.world.quiet()
    assert not door.world.info("jobs").lag


async def test_a_lease_that_ran_out_while_it_waited_is_not_sent(door: Door) -> None:
    """The client has no identifier free: another queue's messages hold them."""
    for name in ("one", "two"):
        await door.world.subscribe(name, name, lease="30s", retry={"initial": "1h", "jitter": 0})
    client = await door.connect("c", receive_maximum=1)
    await client.subscribe("$queue/one", "$queue/two")
    await door.world.publish("one", "a")
    held = await client.hear(Publish)
    await door.world.publish("two", "b")
    await door.advance(31)
    await client.answer(held)
    await client.nothing()
    await door.world.publish("two", "c")
    assert (await client.take()).payload == b"c"


async def test_receive_maximum_and_the_option_are_the_credit(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(queue_inflight=5)) as door:
        await door.world.subscribe("jobs", "jobs")
        await door.world.publish("jobs", *map(str, range(20)))
        three, five = await worker(door, client_id="3", receive_maximum=3), await worker(door, client_id="5")
        await three.ping()
        await five.ping()
        assert door.world.info("jobs").leased == 8
        held = [await five.hear(Publish) for _ in range(5)]
        await five.nothing()
        await five.answer(held[0])
        await five.hear(Publish)
        await five.nothing()


async def test_keys_are_worked_off_in_order(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs", ordered=True)
    one, two = await worker(door, client_id="1"), await worker(door, client_id="2")
    await door.world.publish("jobs", "a", "b", key="k")
    await door.world.quiet()
    clients = {one: two, two: one}
    for body in (b"a", b"b"):
        for client in clients:
            with suppress(TimeoutError):
                packet = await client.hear(Publish, 0.05)
                assert packet.payload == body
                await clients[client].nothing()
                await client.answer(packet)
                break
        else:
            raise AssertionError(body)


# Going and coming


async def test_a_client_that_is_lost_leaves_its_work_to_others_at_once(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    one = await worker(door, client_id="1")
    await door.world.publish("jobs", "a", "b")
    for _ in range(2):
        await one.hear(Publish)
    two = await worker(door, client_id="2")
    await one.lost()
    packets = [await two.take() for _ in range(2)]
    assert [(packet.payload, packet.dup) for packet in packets] == [(b"a", False), (b"b", False)]
    assert [noted(packet)["postroom-attempt"] for packet in packets] == ["1", "1"]


async def test_a_message_that_kills_its_workers_ends_as_a_dead_letter_alone(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs", max_deliveries=3)
    await door.world.publish("jobs", "poison", "good")
    for _ in range(3):
        client = await worker(door)
        assert (await client.hear(Publish)).payload == b"poison"
        assert (await client.hear(Publish)).payload == b"good"
        await client.lost()
        await asyncio.sleep(0.01)
    await door.world.quiet()
    info = door.world.info("jobs")
    assert (info.lag, info.dead_letters) == (1, 1)
    assert (await (await worker(door)).take()).payload == b"good"


async def test_who_takes_leave_is_not_counted_against_its_work(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs", max_deliveries=1)
    await door.world.publish("jobs", "a")
    client = await worker(door)
    await client.hear(Publish)
    await client.leave()
    client = await worker(door)
    await client.hear(Publish)
    await door.crash()
    assert (door.world.info("jobs").lag, door.world.info("jobs").dead_letters) == (1, 0)


@pytest.mark.statement("MQTT-3.10.4-2")
async def test_who_unsubscribes_may_finish_what_it_has(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client = await worker(door, receive_maximum=2)
    await door.world.publish("jobs", "a", "b", "c")
    held = [await client.hear(Publish) for _ in range(2)]
    assert (await client.unsubscribe("$queue/jobs", "$queue/none")).reasons == (
        Reason.SUCCESS,
        Reason.NO_SUBSCRIPTION_EXISTED,
    )
    for packet in held:
        await client.answer(packet)
    await client.nothing()
    await door.world.quiet()
    info = door.world.info("jobs")
    assert (info.lag, info.leased, info.consumers) == (1, 0, 0)
    await client.subscribe("$queue/jobs")
    assert (await client.take()).payload == b"c"


async def test_who_unsubscribes_and_goes_leaves_it_to_others(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client = await worker(door)
    await door.world.publish("jobs", "a")
    await client.hear(Publish)
    await client.unsubscribe("$queue/jobs")
    assert door.world.info("jobs").leased == 1
    await client.leave()
    assert (await (await worker(door)).take()).payload == b"a"


async def test_a_session_that_is_kept_works_on_when_it_is_back(door: Door) -> None:
    client = await kept(door)
    await client.subscribe("$queue/jobs/jobs", identifier=3)
    await client.leave()
    await door.world.publish("jobs", "a")
    await door.crash()
    assert door.world.info("jobs").ready == 1
    client = await kept(door, present=True)
    packet = await client.take()
    assert (packet.payload, packet.properties["subscription_ids"]) == (b"a", [3])
    await client.unsubscribe("$queue/jobs/jobs")
    await client.leave()
    client = await kept(door, present=True)
    await door.world.publish("jobs", "b")
    await client.nothing()
    assert door.world.info("jobs").ready == 1


async def test_what_was_in_flight_comes_anew_and_not_as_a_duplicate(door: Door) -> None:
    client = await kept(door)
    await client.subscribe("$queue/jobs/jobs")
    await door.world.publish("jobs", "a")
    await client.hear(Publish)
    await client.lost()
    await asyncio.sleep(0.01)
    client = await kept(door, present=True)
    packet = await client.take()
    assert (packet.payload, packet.dup) == (b"a", False)
    await client.nothing()


async def test_a_queue_that_is_deleted_lets_its_workers_go_and_is_forgotten(door: Door) -> None:
    client = await kept(door)
    await client.subscribe("$queue/jobs/jobs")
    await door.hub.engine.delete_subscription("jobs")
    said = await client.hear(Disconnect)
    assert "jobs was deleted" in said.properties["reason_string"]
    client = await kept(door, present=True)
    assert (await client.unsubscribe("$queue/jobs/jobs")).reasons == (Reason.NO_SUBSCRIPTION_EXISTED,)


async def test_subscribing_again_changes_the_options_and_nothing_else(door: Door) -> None:
    await door.world.subscribe("jobs", "jobs")
    client = await worker(door)
    await door.world.publish("jobs", "a")
    held = await client.hear(Publish)
    await client.subscribe("$queue/jobs", identifier=9)
    await client.nothing()
    await client.answer(held)
    await door.world.publish("jobs", "b")
    assert (await client.take()).properties["subscription_ids"] == [9]
    await door.world.quiet()
    assert (door.world.info("jobs").lag, door.world.info("jobs").consumers) == (0, 1)


async def test_who_goes_while_it_subscribes_leaves_no_consumer_behind(door: Door) -> None:
    await door.connect("hasty")
    connection = door.comes("hasty", Subscribe(1, (Request("$queue/jobs/jobs", 1),)))
    await asyncio.sleep(0)
    connection.abort()
    await asyncio.gather(*connection._tasks)
    await door.server.sessions.stop()
    assert all(not info.consumers for info in door.hub.engine.subscriptions())


# Rights


async def test_it_needs_the_right_to_consume_and_to_make(guarded: Guarded) -> None:  # noqa: F811
    world = guarded.door.world
    await world.subscribe("jobs", "a/#")
    bob = await guarded.connect("bob")
    suback = await bob.subscribe("$queue/jobs", "$queue/mine/a/b")
    assert suback.reasons == (Reason.NOT_AUTHORIZED,) * 2
    assert "consume subscription:jobs" in why(suback)
    await guarded.grant("bob", "consume subscription:jobs", "consume subscription:mine")
    suback = await bob.subscribe("$queue/jobs", "$queue/mine/a/b")
    assert suback.reasons == (Reason.GRANTED_QOS_1, Reason.NOT_AUTHORIZED)
    assert "manage subscription:mine" in why(suback)
    await guarded.grant("bob", "manage subscription:mine")
    suback = await bob.subscribe("$queue/mine/a/#", "$queue/mine/a/b")
    assert suback.reasons == (Reason.NOT_AUTHORIZED, Reason.GRANTED_QOS_1)
    await world.publish("a/b", "x")
    assert await bob.bodies(2) == ["x", "x"]


async def test_a_right_that_goes_ends_the_work(guarded: Guarded) -> None:  # noqa: F811
    world = guarded.door.world
    await world.subscribe("jobs", "a/#")
    await guarded.grant("bob", "consume subscription:jobs")
    bob = await guarded.connect("bob", clean=False, expiry=100)
    await bob.subscribe("$queue/jobs")
    await world.publish("a/b", "x")
    await bob.hear(Publish)
    await guarded.revoke("bob", "consume subscription:jobs")
    assert (await bob.hear(Disconnect)).reason is Reason.NOT_AUTHORIZED
    await world.quiet()
    assert (world.info("jobs").leased, world.info("jobs").consumers) == (0, 0)
    bob = await guarded.connect("bob", clean=False, expiry=100, present=True)
    await bob.nothing()
    assert not world.info("jobs").consumers


async def test_dead_letters_need_their_right(guarded: Guarded) -> None:  # noqa: F811
    await guarded.grant("bob", "consume $dead/jobs")
    bob = await guarded.connect("bob")
    assert (await bob.subscribe("$dead/jobs", "$dead/#", "$dead/other")).reasons == (
        Reason.GRANTED_QOS_1,
        Reason.NOT_AUTHORIZED,
        Reason.NOT_AUTHORIZED,
    )
