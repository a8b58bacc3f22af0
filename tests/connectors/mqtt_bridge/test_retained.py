"""What is retained at the other side is retained here: who comes later finds the last value."""

import asyncio

import pytest

from broker.auth.principal import LOCAL
from broker.connectors.mqtt_bridge.bridge import SETTLED, Bridge
from broker.connectors.mqtt_bridge.inbound import MAX_UNIT
from broker.connectors.mqtt_bridge.memory import Memory, key_of
from broker.core.message import unpack_meta
from broker.core.mqtt import Heard
from broker.core.position import EARLIEST
from broker.core.subscription import Kind, Overflow, Spec
from broker.limits import Limits
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import Publish
from tests.connectors.mqtt_bridge.upstream import Upstream, open_upstream
from tests.connectors.mqtt_bridge.work import at_work, options, publish
from tests.connectors.world import Broker, until


def retained(broker: Broker) -> dict[str, bytes]:
    """Topics and bodies."""
    return {row[1]: row[4] for row in broker.hub.retained.matching("#", 0)}


async def reconnected(bridge: Bridge, upstream: Upstream) -> None:
    count = bridge.status().connections
    upstream.present = True
    upstream.hang_up()
    await until(lambda: bridge.status().connections > count)


async def settle(broker: Broker, *filters: str) -> None:
    """A new subscription lasts for so long that what is retained has come."""
    broker.clock.advance(SETTLED)
    async with asyncio.timeout(10):
        while True:
            found = await broker.engine.get(key_of("b"))
            if found is not None and [text for text, _ in Memory.read(found[0]).settled] == list(filters):
                return


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.connectors.mqtt_bridge.bridge.TICK", 0.01)


async def test_what_is_retained_is_asked_for_again_until_it_has_come_for_sure(
    often: None, broker: Broker, upstream: Upstream
) -> None:
    """A connection that breaks, or a broker that crashes, in the middle of it costs nothing."""
    both = [{"filter": "one/#", "direction": "in"}, {"filter": "two/#", "direction": "in"}]
    upstream.ungranted = "two/#"
    async with at_work(broker, options(upstream, topics=both)) as bridge:
        await until(lambda: bridge.status().connections)
        await reconnected(bridge, upstream)
        assert upstream.handling == [0, 0] * 2
        await settle(broker, "one/#")
        await reconnected(bridge, upstream)
        assert upstream.handling[4:] == [1, 0]
        upstream.ungranted = ""
        await reconnected(bridge, upstream)
        await settle(broker, "one/#", "two/#")
    both[0]["qos"] = "0"
    async with at_work(broker, options(upstream, topics=both)) as bridge:
        await until(lambda: bridge.status().connections)
        assert upstream.handling[8:] == [0, 1]
        await settle(broker, "one/#", "two/#")
        upstream.hang_up()
        upstream.present = False
        await until(lambda: upstream.handling[10:] == [0, 0])


async def test_mqtt_3_1_1_brings_what_is_retained_with_a_new_subscription_alone(
    often: None, broker: Broker, upstream: Upstream
) -> None:
    async with at_work(broker, options(upstream, version="3.1.1")) as bridge:
        await until(lambda: bridge.status().connections)
        await reconnected(bridge, upstream)
        await settle(broker, "down/#")
        await reconnected(bridge, upstream)
        assert upstream.subscribed == ["down/#"] * 2
        upstream.hang_up()
        upstream.present = False
        await until(lambda: upstream.subscribed == ["down/#"] * 3)


async def test_what_has_settled_at_one_broker_has_not_at_the_next(
    often: None, broker: Broker, upstream: Upstream
) -> None:
    async with open_upstream() as standby:
        addresses = [f"mqtt://127.0.0.1:{one.port}" for one in (upstream, standby)]
        async with at_work(broker, options(upstream, address=addresses, version="3.1.1")) as bridge:
            await until(lambda: bridge.status().connections)
            await settle(broker, "down/#")
            upstream.refuses, standby.present = Reason.SERVER_UNAVAILABLE, True
            upstream.hang_up()
            await until(lambda: standby.subscribed == ["down/#"])


async def test_while_the_disk_is_low_it_sends_although_it_is_not_known_any_more(
    often: None, broker: Broker, upstream: Upstream
) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().connections)
        await settle(broker, "down/#")
        await upstream.stop()
        await publish(broker, b"0")
        broker.engine.disk_low = "there is no room"
        await upstream.start()  # and has forgotten it
        await until(lambda: bridge.status().sent == 1)
        assert upstream.handling == [0, 0]
        broker.engine.disk_low = ""


async def test_the_last_value_is_there_after_a_restart_with_its_place_and_whose_it_is(
    broker: Broker, upstream: Upstream
) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(
            Publish("down/x", b"first", 1, retain=True, packet_id=1),
            Publish("down/x", b"passing", 1, packet_id=2),
            Publish("down/y", b"at most once", 0, retain=True),
            Publish("down/x", b"last", 1, retain=True, packet_id=3, properties={"content_type": "x/y"}),
        )
        await until(lambda: upstream.acks == [1, 2, 3] and bridge.status().received == 4)
        found = retained(broker)
        assert found == {"down/x": b"last", "down/y": b"at most once"}
    await broker.restart()
    assert retained(broker) == found
    row, owner = broker.hub.retained.show("down/x")
    assert (unpack_meta(row[3]).get("content_type"), owner) == ("x/y", "$bridge/b")
    assert [m.body for m in await broker.messages("down/x")] == [b"first", b"passing", b"last"]


async def test_its_place_is_that_of_its_message(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(Publish("down/x", b"0", 1, packet_id=1), Publish("down/y", b"1", 1, retain=True, packet_id=2))
        await until(lambda: upstream.acks == [1, 2])
    assert broker.hub.retained.show("down/y")[0][0] == (await broker.messages("down/y"))[0].offset


async def test_an_empty_one_deletes(broker: Broker, upstream: Upstream) -> None:
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(
            Publish("down/x", b"0", 1, retain=True, packet_id=1), Publish("down/x", b"", 1, retain=True, packet_id=2)
        )
        await until(lambda: upstream.acks == [1, 2])
    assert retained(broker) == {}
    await broker.restart()
    assert retained(broker) == {}
    assert [m.body for m in await broker.messages("down/x")] == [b"0", b""]


async def test_what_has_been_here_changes_nothing(broker: Broker, upstream: Upstream) -> None:
    via = ("postroom-via", broker.engine.epoch)
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(
            Publish("down/x", b"new", 1, retain=True, packet_id=1),
            Publish("down/x", b"old", 1, retain=True, packet_id=2, properties={"user": [via]}),
            Publish("down/x", b"", 1, retain=True, packet_id=3, properties={"user": [via]}),
        )
        await until(lambda: upstream.acks == [1, 2, 3])
    assert retained(broker) == {"down/x": b"new"}


async def test_what_there_is_no_room_for_comes_all_the_same_and_leaves_nothing_older(
    broker: Broker, upstream: Upstream
) -> None:
    broker.limits = Limits(retained_bytes_per_principal=300)
    await broker.restart()
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(Publish("down/x", b"small", 1, retain=True, packet_id=1))
        await until(lambda: upstream.acks == [1])
        assert retained(broker) == {"down/x": b"small"}
        upstream.send(Publish("down/x", b"x" * 300, 1, retain=True, packet_id=2))
        await until(lambda: upstream.acks == [1, 2])
        status = bridge.status()
        assert (status.received, status.refused, status.state) == (2, 0, "ok")
        assert "'down/x' is stored, but not retained" in status.refusal
        assert "limits.retained_bytes_per_principal" in status.refusal
    assert retained(broker) == {}
    assert len(await broker.messages("down/x")) == 2


async def test_while_it_waits_nothing_is_retained(broker: Broker, upstream: Upstream) -> None:
    spec = Spec("small", Kind.QUEUE, ("down/#",), max_messages=1, overflow=Overflow.REFUSE)
    await broker.hub.put_subscription(LOCAL, spec)
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(
            *[Publish(f"down/{n}", b"%d" % n, 1, retain=True, packet_id=n + 1) for n in range(3)],
        )
        await until(lambda: bridge.status().state == "waiting")
        assert retained(broker) == {"down/0": b"0"}
        assert await broker.engine.keys("mqtt/retained/") == ["mqtt/retained/down/0"]
        await broker.hub.delete_subscription(LOCAL, "small")
        await until(lambda: upstream.acks == [1, 2, 3])
        assert len(retained(broker)) == 3


async def test_of_many_in_one_commit_each_has_its_own(broker: Broker, upstream: Upstream) -> None:
    count = MAX_UNIT + 10
    async with at_work(broker, options(upstream)) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(
            *[Publish(f"down/{n % 100}", b"%d" % n, 1, retain=n % 3 > 0, packet_id=n + 1) for n in range(count)]
        )
        await until(lambda: len(upstream.acks) == count)
    last = {f"down/{n % 100}": b"%d" % n for n in range(count) if n % 3 > 0}
    assert retained(broker) == last


async def test_mqtt_3_1_1_does_not_say_what_is_retained_now(broker: Broker, upstream: Upstream) -> None:
    """Live messages come without the flag: what was retained when it was subscribed would stay for ever."""
    async with at_work(broker, options(upstream, version="3.1.1")) as bridge:
        await until(lambda: bridge.status().state == "ok")
        upstream.send(
            Publish("down/x", b"then", 1, retain=True, packet_id=1), Publish("down/x", b"now", 1, packet_id=2)
        )
        await until(lambda: upstream.acks == [1, 2])
    assert retained(broker) == {}
    page = await broker.engine.read(["down/x"], EARLIEST, 10, 1 << 20)
    assert [Heard(row).retain for row in page.rows] == [False, False]  # nor is it at a third broker
