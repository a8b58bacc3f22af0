"""A bridge on a real engine, to another broker that behaves as a test wants."""

import asyncio
from itertools import cycle

import pytest
from paho.mqtt import client as paho

from broker.auth.principal import LOCAL
from broker.connectors.mqtt_bridge.bridge import Bridge
from broker.core.mqtt import ORIGIN
from broker.core.subscription import Kind, Overflow, Spec
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import Properties, Publish
from tests.connectors.mqtt_bridge.upstream import Upstream, open_upstream, taken
from tests.connectors.mqtt_bridge.work import Sleeps, at_work, options, publish
from tests.connectors.world import Broker, until

# Out


async def test_what_is_published_goes_out_in_order_with_what_belongs_to_it(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await publish(broker, b"0", key="k", id="i", headers={"h": "v"}, content_type="x/y", ttl=60_000)
        await publish(broker, b"1", b"2")
        await until(lambda: bridge.status().sent == 3)
    first, second, _ = upstream.published
    assert upstream.bodies == [b"0", b"1", b"2"]
    epoch = broker.engine.epoch
    assert first.properties == {
        "content_type": "x/y",
        "message_expiry": 60,
        "user": [("h", "v"), ("postroom-key", "k"), ("postroom-id", "i"), ("postroom-via", epoch)],
    }
    made = (await broker.messages("up/x"))[1].id
    assert second.properties == {"user": [("postroom-via", epoch), ("postroom-id", made)]}


async def test_progress_moves_with_puback_alone(broker: Broker, upstream: Upstream) -> None:
    upstream.answer = lambda packet: None if packet.payload == b"1" else Reason.SUCCESS
    async with at_work(broker, options(upstream)) as bridge:
        await publish(broker, b"0", b"1", b"2")
        await until(lambda: bridge.status().sent == 2)
        assert bridge.status().backlog == 1
        upstream.hang_up()
        upstream.answer = lambda packet: Reason.SUCCESS
        await until(lambda: bridge.status().backlog == 0)
    assert upstream.bodies == [b"0", b"1", b"2", b"1"]


async def test_what_waited_in_an_outage_goes_out_after_it(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        await upstream.stop()
        await publish(broker, *[b"%d" % n for n in range(100)])
        await until(lambda: bridge.status().state == "failing")
        broker.clock.advance(600)
        assert (bridge.status().backlog, bridge.status().oldest_seconds) == (100, 600)
        await upstream.start()
        await until(lambda: bridge.status().sent == 100)
    assert upstream.bodies == [b"%d" % n for n in range(100)]


async def test_no_more_is_in_flight_than_the_other_side_takes(broker: Broker, upstream: Upstream) -> None:
    upstream.properties = {"receive_maximum": 5}
    upstream.answer = lambda packet: None
    async with at_work(broker, options(upstream)) as bridge:
        await publish(broker, *[b"x"] * 20)
        await until(lambda: bridge.status().in_flight == 5)
        await asyncio.sleep(0.05)
        assert upstream.most_in_flight == 5


async def test_a_message_that_is_refused_for_good_is_a_dead_letter_and_the_rest_goes_on(
    broker: Broker, upstream: Upstream
) -> None:
    upstream.answer = lambda packet: Reason.NOT_AUTHORIZED if packet.payload == b"1" else Reason.SUCCESS
    async with at_work(broker, options(upstream)) as bridge:
        await publish(broker, b"0", b"1", b"2")
        await until(lambda: (bridge.status().sent, bridge.status().rejected) == (2, 1))
        await until(lambda: broker.engine.subscription("bridge.b").dead_letters == 1)
        (dead,) = await broker.messages("$dead/bridge.b")
    assert dead.body == b"1"
    assert "Not authorized" in str(dead.history)


async def test_a_dead_letter_that_is_put_back_goes_out(broker: Broker, upstream: Upstream) -> None:
    upstream.answer = lambda packet: Reason.NOT_AUTHORIZED
    async with at_work(broker, options(upstream)) as bridge:
        await publish(broker, b"0", headers={"h": "v"})
        await until(lambda: broker.engine.subscription("bridge.b").dead_letters == 1)
        upstream.answer = taken
        assert await broker.hub.redrive(LOCAL, "bridge.b", 10) == 1
        await until(lambda: bridge.status().sent == 1)
    again = upstream.published[-1]
    assert (again.topic, again.payload, again.properties["user"][0]) == ("up/x", b"0", ("h", "v"))


async def test_what_waited_for_a_topic_that_is_taken_out_is_a_dead_letter(broker: Broker, upstream: Upstream) -> None:
    await Bridge(broker.hub, options(upstream)).prepare()
    await publish(broker, b"0")
    other = [{"filter": "other/#", "direction": "out"}]
    async with at_work(broker, options(upstream, topics=other)) as bridge:
        await until(lambda: broker.engine.subscription("bridge.b").dead_letters == 1)
        assert "none of this bridge's topics" in bridge.status().refusal
    assert [m.body for m in await broker.messages("$dead/bridge.b")] == [b"0"]


async def test_a_message_that_is_refused_for_now_comes_again(broker: Broker, upstream: Upstream) -> None:
    upstream.answer = lambda packet: Reason.QUOTA_EXCEEDED if len(upstream.published) == 1 else Reason.SUCCESS
    async with at_work(broker, options(upstream)) as bridge:
        await publish(broker, b"0")
        await until(lambda: bridge.status().refusal)
        await broker.pass_time(2)
        await until(lambda: bridge.status().backlog == 0)
    assert upstream.bodies == [b"0", b"0"]


async def test_what_is_refused_for_now_comes_again_in_its_order(broker: Broker, upstream: Upstream) -> None:
    chances = cycle((0.99, 0.0))
    broker.engine.chance = lambda: next(chances)
    upstream.answer = lambda packet: Reason.QUOTA_EXCEEDED
    async with at_work(broker, options(upstream, inflight=2)) as bridge:
        await publish(broker, *[b"%d" % n for n in range(20)])
        await until(lambda: broker.engine.subscription("bridge.b").delayed == 20)
        upstream.answer = taken
        await broker.pass_time(0.9)
        await broker.pass_time(0.2)
        await until(lambda: bridge.status().backlog == 0)
    assert upstream.bodies[20:] == [b"%d" % n for n in range(20)]


async def test_a_message_over_their_maximum_is_not_sent(broker: Broker, upstream: Upstream) -> None:
    upstream.properties = {"maximum_packet_size": 1_200}
    async with at_work(broker, options(upstream)) as bridge:
        await publish(broker, b"x" * 1_150, b"x" * 1_000, b"x" * 10)
        await until(lambda: (bridge.status().sent, bridge.status().rejected) == (2, 1))
    assert [len(body) for body in upstream.bodies] == [1_000, 10]


async def test_a_message_at_which_they_hang_up_is_found_out_and_put_aside(broker: Broker, upstream: Upstream) -> None:
    def answer(packet: Publish) -> Reason:
        if packet.payload == b"poison":
            raise ConnectionResetError
        return Reason.SUCCESS

    upstream.answer = answer
    async with at_work(broker, options(upstream, version="3.1.1")) as bridge:
        await publish(broker, b"0", b"poison", b"1", b"2")
        await until(lambda: bridge.status().backlog == 0)
        assert bridge.status().sent == 3
        await until(lambda: broker.engine.subscription("bridge.b").dead_letters == 1)
        assert bridge.status().rejected == 1
        assert "closed the connection over a message" in bridge.status().refusal
        assert [m.body for m in await broker.messages("$dead/bridge.b")] == [b"poison"]


async def test_the_rate_bounds_what_is_sent(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream, rate=10)) as bridge:
        await publish(broker, *[b"x"] * 30)
        await until(lambda: bridge.status().sent == 10)
        await asyncio.sleep(0.3)
        assert bridge.status().sent == 10
        broker.clock.advance(0.5)
        await until(lambda: bridge.status().sent == 15)


async def test_the_oldest_go_when_more_waits_than_the_cap(broker: Broker, upstream: Upstream) -> None:
    bridge = Bridge(broker.hub, options(upstream, queued_messages=3))
    await bridge.prepare()
    await publish(broker, *[b"%d" % n for n in range(5)])
    assert (bridge.status().backlog, bridge.status().dropped) == (3, 2)


# In


async def test_what_comes_is_acknowledged_after_it_is_stored(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(
            Publish("down/x", b"0", 1, packet_id=1, properties={"content_type": "x/y", "user": [("h", "v")]}),
            Publish("down/y", b"1", 1, packet_id=2),
            Publish("down/z", b"2", 0),
        )
        await until(lambda: upstream.acks == [1, 2])
        await until(lambda: bridge.status().received == 3)
    message = (await broker.messages())[0]
    assert (message.topic, message.body, message.content_type, message.headers) == ("down/x", b"0", "x/y", {"h": "v"})


async def test_a_message_with_an_id_that_is_here_is_acknowledged_and_not_doubled(
    broker: Broker, upstream: Upstream
) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        for count in (1, 2):
            await until(lambda: bridge.status().state == "ok")
            said: Properties = {"user": [("postroom-id", "one")]}
            upstream.send(Publish("down/x", b"0", 1, packet_id=count, properties=said))
            await until(lambda n=count: len(upstream.acks) == n)  # type: ignore[misc]
            upstream.hang_up()
            await until(lambda n=count: bridge.status().connections > n)  # type: ignore[misc]
        assert (bridge.status().received, bridge.status().duplicates) == (1, 1)
    assert len(await broker.messages()) == 1


async def test_what_was_here_is_not_let_in_again(broker: Broker, upstream: Upstream) -> None:
    via = f"other,{broker.engine.epoch}"
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(Publish("down/x", b"0", 1, packet_id=1, properties={"user": [("postroom-via", via)]}))
        await until(lambda: upstream.acks == [1])
        assert bridge.status().returned == 1
    assert not await broker.messages()


async def test_what_came_from_there_does_not_go_back(broker: Broker, upstream: Upstream) -> None:
    """Nor what has been there by another way, which a Postroom's epoch tells."""
    upstream.properties = {"user": [(ORIGIN, "theirs")]}
    topics = [{"filter": "t/#", "direction": "both"}]
    async with at_work(broker, options(upstream, topics=topics)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(Publish("t/x", b"0", 1, packet_id=1))
        await until(lambda: bridge.status().received == 1)
        await publish(broker, b"1", topic="t/x", headers={"postroom-via": "theirs"})
        await publish(broker, b"2", topic="t/x")
        await until(lambda: bridge.status().backlog == 0)
    assert upstream.bodies == [b"2"]
    assert (await broker.messages("t/x"))[0].headers == {"postroom-via": "theirs"}


async def test_what_can_never_be_stored_is_acknowledged_counted_and_stops_nothing(
    broker: Broker, upstream: Upstream
) -> None:
    topics = [{"filter": "a/#", "direction": "in"}, {"filter": "$SYS/#", "direction": "in", "local_prefix": "up/"}]
    async with at_work(broker, options(upstream, topics=topics)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(
            Publish("a/1", b"x" * 5_000, 1, packet_id=1),
            Publish("other/1", b"x", 1, packet_id=2),
            Publish("a/" + "x" * 1_100, b"x", 1, packet_id=3),
            Publish("a/2", b"x", 1, packet_id=4, properties={"user": [("n", "x" * 65_000), ("m", "x" * 2_000)]}),
            Publish("a/3", b"good", 1, packet_id=5),
            Publish("$SYS/uptime", b"good", 1, packet_id=6),
        )
        await until(lambda: upstream.acks == [1, 2, 3, 4, 5, 6])
        upstream.send(
            Publish("a/4", b"good", 1, packet_id=7),
            Publish("other/2", b"x", 1, packet_id=8),
            Publish("a/5", b"x" * 5_000, 1, packet_id=9),
            Publish("a/6", b"good", 1, packet_id=10),
        )
        await until(lambda: upstream.acks[6:] == [7, 8, 9, 10])
        assert (bridge.status().refused, bridge.status().received, bridge.status().state) == (6, 4, "ok")
        assert "5000 bytes" in bridge.status().refusal
    assert [m.topic for m in await broker.messages()] == ["a/3", "up/$SYS/uptime", "a/4", "a/6"]


async def test_a_full_queue_makes_it_wait_and_nothing_is_lost(broker: Broker, upstream: Upstream) -> None:
    spec = Spec("small", Kind.QUEUE, ("down/#",), max_messages=2, overflow=Overflow.REFUSE)
    await broker.hub.put_subscription(LOCAL, spec)
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(*[Publish("down/x", b"%d" % n, 1, packet_id=n + 1) for n in range(5)])
        await until(lambda: bridge.status().state == "waiting")
        await until(lambda: upstream.acks == [1, 2])
        assert "at its cap" in bridge.status().error
        await broker.hub.purge(LOCAL, "small")
        await until(lambda: upstream.acks == [1, 2, 3, 4])
        await broker.hub.delete_subscription(LOCAL, "small")
        await until(lambda: upstream.acks == [1, 2, 3, 4, 5])
    assert [m.body for m in await broker.messages("down/x")] == [b"0", b"1", b"2", b"3", b"4"]


async def test_of_what_cannot_be_stored_now_memory_takes_so_much_and_qos_0_is_dropped(
    broker: Broker, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.connectors.mqtt_bridge.inbound.MAX_WAITING_BYTES", 20_000)
    spec = Spec("small", Kind.QUEUE, ("down/#",), max_messages=1, overflow=Overflow.REFUSE)
    await broker.hub.put_subscription(LOCAL, spec)
    body = b"x" * 4_000
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(Publish("down/x", b"fills it", 1, packet_id=1), *[Publish("down/x", body, 0)] * 10)
        await until(lambda: bridge.status().refused == 7)
        await until(lambda: bridge.status().state == "waiting")
        assert bridge.status().connections == 1
        assert "QoS 0" in bridge.status().refusal
        upstream.send(*[Publish("down/x", body, 1, packet_id=n) for n in range(2, 10)])
        await until(lambda: bridge.status().connections > 1)
        await broker.hub.delete_subscription(LOCAL, "small")
        await until(lambda: bridge.status().received >= 4)
        upstream.send(*[Publish("down/x", body, 1, packet_id=n) for n in range(2, 6)])
        await until(lambda: sorted(set(upstream.acks)) == [1, 2, 3, 4, 5])


# Connections


async def test_addresses_are_tried_in_order_then_it_waits_longer_each_time(broker: Broker, upstream: Upstream) -> None:
    sleeps = Sleeps()
    await upstream.stop()
    dead = f"mqtt://127.0.0.1:{upstream.port}"
    async with open_upstream() as second:
        second.refuses = Reason.BAD_USER_NAME_OR_PASSWORD
        addresses = [dead, f"mqtt://127.0.0.1:{second.port}"]
        chosen = options(upstream, address=addresses, backoff="1s", backoff_cap="5s", user="u", password="wrong")
        async with at_work(broker, chosen, sleeps) as bridge:
            await until(lambda: len(sleeps.asked) >= 5)
            assert sleeps.asked[:5] == [1, 2, 4, 5, 5]
            assert "Bad user name or password" in bridge.status().error
            second.refuses = None
            await until(lambda: bridge.status().state == "ok")
            assert bridge.status().address == addresses[1]
            assert second.connects[-1].username == "u"
            await publish(broker, b"x")
            await until(lambda: bridge.status().sent == 1)
            broker.clock.advance(1)
            count = len(sleeps.asked)
            await asyncio.sleep(1.1)  # it has looked
            second.hang_up()
            await until(lambda: len(sleeps.asked) > count)
            assert sleeps.asked[count] == 1
    await upstream.start()


async def test_it_is_known_by_the_same_name_after_a_restart_and_gives_up_old_filters(
    broker: Broker, upstream: Upstream
) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
    await broker.restart()
    upstream.present = True
    topics = [{"filter": "new/#", "direction": "in"}]
    async with at_work(broker, options(upstream, topics=topics)) as bridge:
        await until(lambda: bridge.status().state == "ok")
    first, second = upstream.connects
    assert first.client_id == second.client_id
    assert first.client_id.startswith("postroom-b-")
    assert (first.clean_start, first.properties["session_expiry"]) == (False, 0xFFFFFFFF)
    assert upstream.subscribed == ["down/#", "new/#"]
    assert upstream.unsubscribed == ["down/#"]


async def test_one_that_says_nothing_or_hangs_up_is_told_apart(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.deaf = True  # to SUBSCRIBE
        upstream.hang_up()
        await until(lambda: len(upstream.connects) > 1)
        upstream.hang_up()
        await until(lambda: "closed the connection" in bridge.status().error)


async def test_a_socket_that_is_closed_while_it_is_dialled_is_not_watched(
    broker: Broker, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is when the bridge is taken out then."""
    opened, told, faults = paho.Client._call_socket_open, [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))

    def closed(client: paho.Client, sock: object) -> None:
        client._sock_close()
        opened(client, client._sock)  # type: ignore[arg-type]
        told.append(sock)

    monkeypatch.setattr(paho.Client, "_call_socket_open", closed)
    async with at_work(broker, options(upstream)):
        await until(lambda: told)
    assert not faults


async def test_its_queue_is_not_changed_with_every_connection(broker: Broker, upstream: Upstream) -> None:
    changes: list[int] = []
    broker.hub.watchers.append(lambda: changes.append(1))
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.hang_up()
        await until(lambda: bridge.status().connections == 2)
    assert len(changes) == 1


async def test_a_flood_of_refusals_is_one_line_of_the_log(
    broker: Broker, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(*[Publish(f"other/{n}", b"x", 1, packet_id=n + 1) for n in range(50)])
        await until(lambda: bridge.status().refused == 50)
    assert len([record for record in caplog.records if "refused" in record.message]) == 1


async def test_a_deleted_queue_is_made_again(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        await broker.hub.delete_subscription(LOCAL, "bridge.b")
        await until(lambda: bridge.status().connections == 2)
        await publish(broker, b"x")
        await until(lambda: bridge.status().sent == 1)


async def test_notifications_say_whether_it_is_there(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream, notifications="bridges/b")) as bridge:
        await until(lambda: bridge.status().state == "ok")
        await until(lambda: upstream.published)
        (packet,) = upstream.published
        assert (packet.topic, packet.payload, packet.retain) == ("bridges/b", b"1", True)
    will = upstream.connects[0].will
    assert will is not None
    assert (will.topic, will.payload, will.retain) == ("bridges/b", b"0", True)
    await until(lambda: upstream.bodies == [b"1", b"0"])


async def test_messages_of_the_log_look_the_same_over_there(broker: Broker, upstream: Upstream) -> None:
    """A second hop adds its log and changes nothing else."""
    async with at_work(broker, options(upstream, topics=[{"filter": "a/#", "direction": "both"}])) as bridge:
        await until(lambda: bridge.status().state == "ok")
        await publish(broker, b"x", topic="a/b", headers={"postroom-via": "first"}, id="i")
        await until(lambda: bridge.status().sent == 1)
    (packet,) = upstream.published
    assert packet.properties["user"] == [("postroom-id", "i"), ("postroom-via", f"first,{broker.engine.epoch}")]
