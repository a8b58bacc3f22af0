"""Bounds: before a client is admitted, and after; what it must not do ends its connection with the reason."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.core.errors import BrokerError, Code
from broker.limits import Limits
from broker.protocols.mqtt import gate
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
    Subscribe,
    Will,
)
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.mqtt.door import PATIENCE, SHORT, Client, Door, open_door


async def test_who_says_nothing_is_let_go(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(connect_timeout="100ms")) as door:
        client = await door.dial()
        await client.closed()
        assert not client.heard


async def test_a_large_packet_before_connect_is_never_kept(door: Door) -> None:
    client = await door.dial()
    client.raw(b"\x10\xff\xff\xff\x7f" + b"x" * 1000)
    await client.closed()
    assert len(door.server.connections) == 0


async def test_a_packet_over_the_maximum(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(max_body=1_000)) as door:
        client = await door.connect("c")
        most = client.connack.properties["maximum_packet_size"]
        assert await client.publish("a", "x" * 1_001) is Reason.IMPLEMENTATION_SPECIFIC_ERROR
        assert await client.publish("a", "x" * 1_000) is Reason.SUCCESS
        client.raw(b"\x32" + bytes((0x80 | (most & 127), 0x80 | (most >> 7 & 127), most >> 14)))
        assert (await client.hear(Disconnect)).reason is Reason.PACKET_TOO_LARGE


@pytest.mark.statement("MQTT-4.13.1-1")
async def test_the_farewell_is_read_although_more_was_sent(door: Door) -> None:
    client = await door.connect("c")
    client.write(Publish("a", b"", 0, properties={"topic_alias": 9}))
    client.write(*(Publish("a", b"x" * 1_000, 0) for _ in range(200)))
    client.raw(b"\xf0\x00" + b"x" * 100_000)
    assert (await client.hear(Disconnect)).reason >= Reason.UNSPECIFIED_ERROR
    await client.closed()


async def test_who_is_not_read_ends_when_it_has_read_why(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.net.door.LINGER", 1_000)
    client = await door.connect("c")
    (connection,) = door.server.connections
    connection.hold(reading=False)
    connection.dismiss(BrokerError(Code.DISMISSED))
    assert (await client.hear(Disconnect)).reason is Reason.ADMINISTRATIVE_ACTION
    await client.closed()
    client._writer.close()
    async with asyncio.timeout(PATIENCE):
        while door.server.connections:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.005)


async def test_who_is_let_go_takes_no_more_memory_while_it_reads_why(door: Door) -> None:
    client = await door.connect("c")
    client.raw(b"\x30\xff\xff\x03" + bytes(50_000))
    (connection,) = door.server.connections
    async with asyncio.timeout(PATIENCE):
        while connection.arriving < 50_000:  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.001)
    connection.dismiss(BrokerError(Code.OVERLOADED, "too much"))
    assert connection.arriving == 0
    assert (await client.hear(Disconnect)).reason is Reason.QUOTA_EXCEEDED


async def test_so_many_filters_and_no_more(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(max_filters=3)) as door:
        client = await door.connect("c")
        answer = await client.subscribe("a", "b", "c", "d", "a")
        assert answer.reasons == (*[Reason.GRANTED_QOS_1] * 3, Reason.QUOTA_EXCEEDED, Reason.GRANTED_QOS_1)
        assert [felt["limit"] for felt in door.hub.flow.limited.status()] == ["mqtt.max_filters"]
        await client.unsubscribe("a")
        assert (await client.subscribe("d")).reasons == (Reason.GRANTED_QOS_1,)


async def test_a_peer_that_vanished_is_found_out_without_a_keep_alive(door: Door) -> None:
    await door.connect("c", V311)
    (connection,) = door.server.connections
    assert connection.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_the_name_of_a_group_is_no_longer_than_a_topic(door: Door) -> None:
    client = await door.connect("c")
    answer = await client.subscribe(f"$share/{'g' * 1_025}/a", f"$share/{'g' * 1_024}/a")
    assert answer.reasons == (Reason.TOPIC_FILTER_INVALID, Reason.GRANTED_QOS_1)


async def test_so_many_sessions_and_no_more(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(max_sessions=1)) as door:
        await door.connect("one", expiry=60)
        client = await door.dial()
        client.write(Connect(V5, "two", properties={"session_expiry": 60}))
        assert (await client.hear(Connack)).reason is Reason.QUOTA_EXCEEDED
        client = await door.dial()
        client.write(Connect(V5, "three"))
        assert (await client.hear(Connack)).reason is Reason.QUOTA_EXCEEDED
        assert [felt["limit"] for felt in door.hub.flow.limited.status()] == ["mqtt.max_sessions"]


@pytest.mark.statement("MQTT-3.1.2-21", "MQTT-3.2.2-22")
async def test_server_keep_alive_and_silence(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(max_keep_alive="1s")) as door:
        for asked in (0, 100):
            client = await door.connect(f"c{asked}", keep_alive=asked)
            assert client.connack.properties["server_keep_alive"] == 1
        assert "server_keep_alive" not in (await door.connect("d", keep_alive=1)).connack.properties
        assert (await client.hear(Disconnect, 4)).reason is Reason.KEEP_ALIVE_TIMEOUT
        await client.closed()


async def test_the_session_expiry_is_bounded_and_told(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(max_session_expiry="60s")) as door:
        client = await door.connect("c", expiry=0xFFFF_FFFF)
        assert client.connack.properties["session_expiry"] == 60
        assert "session_expiry" not in (await door.connect("d", expiry=30)).connack.properties


async def test_what_is_wrong_is_said_in_words_of_mqtt(door: Door) -> None:
    client = await door.connect("c")
    client.raw(b"\x00\x00")
    said = (await client.hear(Disconnect)).properties["reason_string"]
    assert said == "packet type 0"
    client = await door.connect("d")
    await door.connect("d")
    said = (await client.hear(Disconnect)).properties["reason_string"]
    assert said == "another connection has this client identifier"


@pytest.mark.statement("MQTT-3.1.2-29")
async def test_reason_strings_are_for_who_wants_them(door: Door) -> None:
    for wants in (0, 1):
        client = await door.connect(f"c{wants}", request_problem_information=wants)
        client.write(Publish("$sys/x", b"", 1, packet_id=1))
        assert ("reason_string" in (await client.hear(Ack)).properties) is bool(wants)


@pytest.mark.statement("MQTT-3.1.2-28")
async def test_response_information_is_for_who_asks(door: Door) -> None:
    client = await door.connect("me", request_response_information=1)
    answers = client.connack.properties["response_information"]
    await client.subscribe(f"{answers}/#")
    other = await door.connect("other")
    await other.publish(f"{answers}/1", "answer", 1)
    assert (await client.take()).payload == b"answer"
    assert "response_information" not in other.connack.properties


@pytest.mark.parametrize(("name", "told"), [("dev:1", "$reply/dev:1"), ("a/b", "$reply/a%2Fb"), ("+", "$reply/%2B")])
async def test_response_information_is_the_topic_that_a_grant_names(door: Door, name: str, told: str) -> None:
    """`consume $reply/%c` is filled in with the identifier as it is, where it is one level."""
    client = await door.connect(name, request_response_information=1)
    assert client.connack.properties["response_information"] == told


@pytest.mark.statement("MQTT-4.12.0-1")
async def test_extended_authentication_is_not_spoken(door: Door) -> None:
    client = await door.dial()
    client.write(Connect(V5, "c", properties={"authentication_method": "SCRAM"}))
    assert (await client.hear(Connack)).reason is Reason.BAD_AUTHENTICATION_METHOD


@pytest.mark.statement("MQTT-3.1.2-2", "MQTT-3.2.2-7")
async def test_an_unknown_version_is_told(door: Door) -> None:
    client = await door.dial(V311)
    client.raw(bytes.fromhex("100d00044d51545409020000000161"))
    assert (await client.hear(Connack)).reason is Reason.UNSUPPORTED_PROTOCOL_VERSION
    await client.closed()


async def test_a_stop_says_so(door: Door) -> None:
    client, older = await door.connect("c"), await door.connect("o", V311)
    door.server.drain()
    assert (await client.hear(Disconnect)).reason is Reason.SERVER_SHUTTING_DOWN
    await client.closed()
    await older.closed()


async def test_a_dismissed_client_hears_why(door: Door) -> None:
    client = await door.connect("c")
    assert door.server.admission.dismiss(lambda one: one.client == "c", BrokerError(Code.FORBIDDEN, "go")) == 1
    assert (await client.hear(Disconnect)).reason is Reason.NOT_AUTHORIZED


@pytest.mark.parametrize("version", [V311, V5])
async def test_a_queue_at_its_cap_refuses_and_is_told(door: Door, version: int) -> None:
    await door.world.subscribe("full", "a", max_messages=2, overflow="refuse")
    client = await door.connect("c", version)
    assert await client.publish("a", "1") is Reason.SUCCESS
    assert await client.publish("a", "2") is Reason.SUCCESS
    if version == V5:
        assert await client.publish("a", "3") is Reason.QUOTA_EXCEEDED
        assert await client.publish("a", "3", 2) is Reason.QUOTA_EXCEEDED
        assert await client.publish("b", "4", 2) is Reason.SUCCESS
    else:
        client.write(Publish("a", b"3", 1, packet_id=3))
        await client.closed()
        assert not client.heard


async def test_a_rate_slows_and_loses_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(publish_messages_per_second=100)) as door:
        reader, writer = await door.connect("r"), await door.connect("w")
        await reader.subscribe("a")
        for i in range(1, 151):
            writer.write(Publish("a", b"x", 1, packet_id=i))
            await asyncio.sleep(0)
        for _ in range(150):
            await writer.hear(Ack)
        assert len(await reader.bodies(150)) == 150
        assert door.hub.flow.limited.times["publish_messages_per_second"] > 0
        assert door.hub.flow.blocked in (0, 1)


@asynccontextmanager
async def slowed(folder: Path, **options: Any) -> AsyncIterator[tuple[Door, Client]]:
    """A client that has published more than its principal may, for 0.2 seconds."""
    async with open_door(folder, limits=Limits(publish_messages_per_second=100)) as door:
        client = await door.connect("fast", **options)
        await client.subscribe("b")
        assert await client.publish("b", "1") is Reason.SUCCESS
        assert await client.publish("b", "2") is Reason.SUCCESS
        door.comes("fast", *(Publish("a", b"x", 1, packet_id=i) for i in range(1, 121)))
        for _ in range(120):
            await client.hear(Ack)
        yield door, client


async def test_who_is_slowed_is_heard_when_it_acknowledges(tmp_path: Path) -> None:
    async with slowed(tmp_path, receive_maximum=1) as (door, client):
        packet = await client.hear(Publish)
        client.write(Publish("c", b"x", 1, packet_id=500), Ack(Kind.PUBACK, (packet.packet_id,)))
        assert (await client.take()).payload == b"2"
        await client.ping()
        assert door.hub.flow.blocked == 1
        await client.nothing(Ack)
        assert (await client.hear(Ack)).packet_ids == (500,)


async def test_what_is_put_aside_of_a_slowed_client_is_bounded(tmp_path: Path) -> None:
    async with slowed(tmp_path) as (door, client):
        assert not door.comes("fast", *(Publish("a", b"x" * 6_000, 1, packet_id=i) for i in range(1, 11))).held
        assert door.comes("fast", Publish("a", b"x" * 6_000, 1, packet_id=11)).held
        assert [(await client.hear(Ack)).packet_ids[0] for _ in range(11)] == list(range(1, 12))
        await client.ping()


@pytest.mark.parametrize("overtaken", [False, True])
async def test_who_is_slowed_takes_leave_behind_what_it_published(tmp_path: Path, *, overtaken: bool) -> None:
    async with slowed(tmp_path, will=Will("w", b"lost", 1)) as (door, client):
        watcher = await door.connect("watcher")
        await watcher.subscribe("w", "c")
        connection = door.comes("fast", Publish("c", b"last", 0), Disconnect())
        if overtaken:
            connection.transport.abort()
        else:
            client.eof()
        assert (await watcher.take()).payload == b"last"
        await client.closed()
        await watcher.nothing()


@pytest.mark.parametrize("stored", [False, True])
async def test_a_rate_slows_qos_0_too(tmp_path: Path, *, stored: bool) -> None:
    async with open_door(tmp_path, limits=Limits(publish_messages_per_second=100)) as door:
        if stored:
            await door.world.subscribe("q", "a")
        await door.connect("w")
        door.comes("w", *(Publish("a", b"x", 0) for _ in range(150)))
        assert door.hub.flow.blocked == 1


@pytest.mark.parametrize("stored", [False, True])
async def test_qos_0_waits_while_the_disk_lags_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stored: bool
) -> None:
    monkeypatch.setattr(gate, "LOOK", SHORT / 5)
    async with open_door(tmp_path, limits=Limits(max_uncommitted=1 << 20)) as door:
        if stored:
            await door.world.subscribe("q", "a")
        await door.connect("w")
        door.hub.flow.enter("others", "another", 3 << 20)
        connection = door.comes("w", Publish("a", b"x", 0))
        assert door.hub.flow.blocked == 1
        await asyncio.sleep(SHORT)
        assert connection.held
        door.hub.flow.leave("others", "another", 3 << 20)
        await asyncio.sleep(SHORT)
        assert not connection.held
        assert not door.hub.flow.blocked


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_connection_has_its_share_of_what_waits_for_the_disk(tmp_path: Path, qos: int) -> None:
    async with open_door(tmp_path, limits=Limits(max_uncommitted_per_connection=1 << 16)) as door:
        await door.world.subscribe("q", "a")
        writer, other = await door.connect("w"), await door.connect("o")
        flood = door.comes("w", *(Publish("a", b"x" * 10_000, qos, packet_id=qos and i) for i in range(1, 21)))
        assert flood.held
        assert not door.comes("o", Publish("a", b"x", qos, packet_id=qos)).held
        for client in (writer, other):
            await client.ping()  # it is read again
        assert not flood.held


async def test_a_failed_disk_acknowledges_nothing(door: Door) -> None:
    client, older = await door.connect("c"), await door.connect("o", V311)
    await older.subscribe("x")
    door.hub.engine.fail(OSError("disk full"))  # type: ignore[attr-defined]
    client.write(Publish("a", b"x", 1, packet_id=1))
    heard = await client.hear(Ack)
    assert heard.reason >= Reason.UNSPECIFIED_ERROR
    older.write(Publish("a", b"x", 1, packet_id=1))
    await older.closed()
    assert not older.heard


async def test_a_flood_of_subscribes_and_publishes_stays_in_order(door: Door) -> None:
    client = await door.connect("kept", expiry=60, clean=False)
    for i in range(1, 40):
        client.write(Subscribe(i, (Request(f"t/{i}", 1),)), Publish(f"t/{i}", str(i).encode(), 1, packet_id=i))
    assert await client.bodies(39) == [str(i) for i in range(1, 40)]
