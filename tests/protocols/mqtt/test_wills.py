"""Wills: of who is lost, at once or later, and over a crash of the broker."""

import asyncio

import pytest

from broker.auth.principal import LOCAL
from broker.core.position import EARLIEST
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import V5, Connack, Connect, Publish, Will
from tests.protocols.mqtt.door import PATIENCE, Door

WILL = Will("gone", b"bye", 1, properties={"content_type": "t"})


async def said(door: Door) -> list[bytes]:
    await door.world.quiet()
    return [row[4] for row in (await door.hub.read(LOCAL, ["gone"], EARLIEST, 10)).rows]


@pytest.mark.statement("MQTT-3.1.2-8")
async def test_it_is_published_when_the_connection_is_lost(door: Door) -> None:
    watcher, client = await door.connect("watcher"), await door.connect("c", will=WILL)
    await watcher.subscribe("gone", qos=2)
    await client.lost()
    packet = await watcher.take()
    assert (packet.payload, packet.qos, packet.properties) == (b"bye", 1, {"content_type": "t"})


@pytest.mark.statement("MQTT-3.1.2-10", "MQTT-3.14.4-3")
async def test_not_when_the_client_takes_its_leave(door: Door) -> None:
    client = await door.connect("c", will=WILL)
    await client.leave()
    assert await said(door) == []
    assert not await door.hub.engine.keys("mqtt/will/")


async def test_but_when_it_asks_for_it(door: Door) -> None:
    client = await door.connect("c", will=WILL)
    await client.leave(Reason.DISCONNECT_WITH_WILL)
    assert await said(door) == [b"bye"]


async def test_a_protocol_error_publishes_it(door: Door) -> None:
    client = await door.connect("c", will=WILL)
    client.raw(b"\xff\xff")
    await client.closed()
    assert await said(door) == [b"bye"]


async def test_after_its_delay(door: Door) -> None:
    will = Will("gone", b"later", 0, properties={"will_delay": 30})
    client = await door.connect("c", expiry=100, clean=False, will=will)
    await client.lost()
    await asyncio.sleep(0.01)
    await door.advance(29)
    assert await said(door) == []
    await door.advance(2)
    assert await said(door) == [b"later"]


@pytest.mark.statement("MQTT-3.1.3-9")
async def test_not_when_the_client_is_back_before(door: Door) -> None:
    will = Will("gone", b"later", 0, properties={"will_delay": 30})
    client = await door.connect("c", expiry=100, clean=False, will=will)
    await client.lost()
    await asyncio.sleep(0.01)
    await door.advance(10)
    await door.connect("c", expiry=100, clean=False, present=True)
    await door.advance(60)
    assert await said(door) == []


async def test_the_end_of_the_session_comes_before_a_longer_delay(door: Door) -> None:
    will = Will("gone", b"later", 0, properties={"will_delay": 100})
    client = await door.connect("c", expiry=10, clean=False, will=will)
    await client.lost()
    await asyncio.sleep(0.01)
    await door.advance(11)
    assert await said(door) == [b"later"]
    client = await door.connect("d", will=will)
    await client.lost()
    await asyncio.sleep(0.01)
    assert await said(door) == [b"later", b"later"]


async def test_a_clean_start_ends_the_session_and_so_publishes_it(door: Door) -> None:
    will = Will("gone", b"later", 0, properties={"will_delay": 100})
    await door.connect("c", expiry=1_000, clean=False, will=will)
    await door.connect("c", clean=True)
    assert await said(door) == [b"later"]


async def test_taking_over_publishes_one_without_delay(door: Door) -> None:
    await door.connect("c", expiry=1_000, clean=False, will=WILL)
    await door.connect("c", expiry=1_000, clean=False, present=True)
    assert await said(door) == [b"bye"]


@pytest.mark.statement("MQTT-3.1.2-15")
async def test_it_can_be_retained(door: Door) -> None:
    client = await door.connect("c", will=Will("gone", b"kept", 1, retain=True))
    await client.lost()
    await asyncio.sleep(0.01)
    await door.world.quiet()
    reader = await door.connect("r")
    await reader.subscribe("gone")
    assert (await reader.take()).retain


@pytest.mark.statement("MQTT-3.1.2-14", "MQTT-3.1.3-10")
async def test_it_is_not_retained_unless_it_says_so_and_keeps_its_order(door: Door) -> None:
    user = [("b", "1"), ("a", "2"), ("b", "0")]
    watcher = await door.connect("watcher")
    await watcher.subscribe("gone", retain_as_published=True)
    client = await door.connect("c", will=Will("gone", b"bye", 1, properties={"user": user}))
    await client.lost()
    packet = await watcher.take()
    assert (packet.retain, packet.properties) == (False, {"user": user})
    later = await door.connect("later")
    await later.subscribe("gone")
    await later.nothing()


async def test_a_crash_of_the_broker_publishes_those_of_who_does_not_come_back(door: Door) -> None:
    await door.connect("gone", will=WILL)
    await door.connect("back", will=Will("gone", b"never", 1))
    await door.crash()
    await door.connect("back")
    await door.advance(10)
    assert await said(door) == [b"bye"]
    await door.crash()
    await door.advance(100)
    assert await said(door) == [b"bye"]


async def test_a_will_to_the_brokers_own_topics_is_refused(door: Door) -> None:
    client = await door.dial()
    client.write(Connect(V5, "c", will=Will("$sys/x", b"")))
    assert (await client.hear(Connack)).reason is Reason.NOT_AUTHORIZED
    await client.closed()


async def test_a_planned_stop_publishes_none(door: Door) -> None:
    await door.connect("c", will=WILL)
    door.server.drain()
    assert await said(door) == []
    assert await door.hub.engine.keys("mqtt/will/") == ["mqtt/will/c"]


@pytest.mark.statement("MQTT-3.1.2-11", "MQTT-3.1.2-22")
async def test_silence_publishes_it(door: Door) -> None:
    watcher, client = await door.connect("w"), await door.connect("c", will=WILL, keep_alive=1)
    await watcher.subscribe("gone")
    assert (await watcher.hear(Publish, 4)).payload == b"bye"
    await client.closed()


async def test_after_a_crash_a_delay_is_no_longer_than_the_session(door: Door) -> None:
    await door.connect("c", will=Will("gone", b"bye", 1, properties={"will_delay": 0xFFFF_FFFF}))
    await door.crash()
    await door.advance(10)
    assert await said(door) == [b"bye"]


async def test_one_that_cannot_be_stored_is_published_when_it_can(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    client = await door.connect("c", will=WILL)
    door.hub.engine.disk_low = "the test says so"  # type: ignore[attr-defined]
    await client.lost()
    async with asyncio.timeout(PATIENCE):
        while "a will is not published" not in caplog.text:  # noqa: ASYNC110  until its end is noticed
            await asyncio.sleep(0.001)
    await door.advance(6)
    assert await said(door) == []
    door.hub.engine.disk_low = ""  # type: ignore[attr-defined]
    await door.advance(6)
    assert await said(door) == [b"bye"]
    assert not await door.hub.engine.keys("mqtt/will/")


async def test_a_client_that_cannot_be_let_in_leaves_the_will_that_was_there(door: Door) -> None:
    """What it brings itself is nothing that anybody promised to keep."""
    delayed = Will("gone", b"bye", 1, properties={"will_delay": 60})
    client = await door.connect("c", will=delayed, expiry=120)
    await client.lost()
    await door.world.quiet()
    door.hub.engine.disk_low = "the test says so"  # type: ignore[attr-defined]
    again = await door.dial()
    again.write(Connect(V5, "c", False, will=Will("gone", b"another"), properties={"session_expiry": 120}))
    assert (await again.hear(Connack)).reason is Reason.QUOTA_EXCEEDED
    door.hub.engine.disk_low = ""  # type: ignore[attr-defined]
    await door.advance(61)
    assert await said(door) == [b"bye"]
