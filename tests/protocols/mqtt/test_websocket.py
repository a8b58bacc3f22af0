"""MQTT over WebSocket: the door is the same; frames mean nothing to it, and the end is one that the client can read."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.auth.directory import Directory
from broker.auth.doorkeeper import Strict
from broker.auth.options import AuthOptions
from broker.core.errors import BrokerError, Code
from broker.engine.keyspace import Keyspace
from broker.limits import Limits
from broker.protocols.http.connection import Connection as HttpConnection
from broker.protocols.http.frames import CLOSE, CONTINUATION, PING, PONG, TEXT
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Publish,
    Will,
)
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.http.conftest import until
from tests.protocols.http.frames import masked
from tests.protocols.mqtt.test_door_vectors import DIFFERS, fault
from tests.protocols.mqtt.vectors import load, needed
from tests.protocols.mqtt.websocket import WebDoor, ends_of, open_web_door

NORMAL, PROTOCOL_ERROR, UNSUPPORTED_DATA = 1000, 1002, 1003


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[WebDoor]:
    async with open_web_door(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("version", [V311, V5])
async def test_messages_of_every_qos_go_both_ways(door: WebDoor, version: int) -> None:
    client = await door.connect("c", version)
    await client.subscribe("a/#", qos=2)
    for qos, body in enumerate(("", "x" * 200, "y" * 70_000)):
        assert await client.publish(f"a/{qos}", body, qos) is Reason.SUCCESS
        assert (await client.take()).payload.decode() == body


async def test_what_is_not_answered_makes_no_message(door: WebDoor) -> None:
    client = await door.connect("c")
    for _ in range(20):
        await client.publish("a", "kept", 0, retain=True)
        await client.ping()
    await client.publish("a", "")


async def test_it_counts_once_and_as_a_connection_of_mqtt(tmp_path: Path) -> None:
    async with open_web_door(tmp_path, limits=Limits(max_connections_per_address=1)) as door:
        await door.connect("c")
        (connection,) = door.server.admission
        assert (connection.door, connection.client, connection.address) == ("mqtt", "c", "127.0.0.1")
        assert door.http.connections == []


async def test_nothing_stays_of_the_http_connection(door: WebDoor) -> None:
    ends, _ = await door.ask(protocol="other")
    gc.collect()
    gc.disable()
    try:
        ends.writer.write(b"GET /mqtt HTTP/1.1\r\nHost: %s\r\n" % door.address.encode())
        ends.writer.write(b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n")
        ends.writer.write(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
        await until(lambda: len(door.server.connections) == 1)
        await asyncio.sleep(0)  # the task of the request ends
        assert not [one for one in gc.get_objects() if isinstance(one, HttpConnection)]
    finally:
        gc.enable()


# Frames


@pytest.mark.statement("MQTT-6.0.0-2")
@pytest.mark.parametrize("cut", [1, 3, 7])
async def test_reads_need_not_end_where_frames_do(door: WebDoor, cut: int) -> None:
    client = await door.dial()
    ends_of(client).cut = cut
    client.write(Connect(V5, "c"), Publish("a", b"x" * 300, 1, packet_id=5), Pingreq())
    assert (await client.hear(Connack)).reason is Reason.SUCCESS
    await client.hear(Pingresp)


@pytest.mark.statement("MQTT-6.0.0-2")
async def test_packets_need_not_end_where_frames_or_messages_do(door: WebDoor) -> None:
    client, reader = await door.dial(), await door.connect("r")
    await reader.subscribe("a")
    writer = ends_of(client).writer
    said = encode(Connect(V5, "c"), V5) + b"".join(encode(Publish("a", b"%d" % i, 0), V5) for i in range(9))
    for at in range(0, len(said), 5):
        writer.write(masked(said[at : at + 5]))
    said = encode(Publish("a", b"9", 0), V5) + encode(Pingreq(), V5)
    writer.write(masked(said[:2], fin=False))
    for byte in said[2:-1]:
        writer.write(masked(bytes([byte]), CONTINUATION, fin=False) + masked(b"still there?", PING))
    writer.write(masked(said[-1:], CONTINUATION))
    await client.hear(Pingresp)
    await client.ping()
    assert ends_of(client).frames == [(PONG, b"still there?")] * (len(said) - 3)
    assert await reader.bodies(10) == [str(i) for i in range(10)]


async def test_what_comes_right_behind_the_request_is_not_lost(door: WebDoor) -> None:
    reader, writer = await door.open()
    writer.write(b"GET /mqtt HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n" % door.address.encode())
    writer.write(b"Connection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
    writer.write(b"Sec-WebSocket-Protocol: mqtt\r\n\r\n" + masked(encode(Connect(V5, "early"), V5)))
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        assert (await reader.readexactly(3))[2] == 0x20


@pytest.mark.statement("MQTT-6.0.0-1")
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (masked(b"\xc0\0", TEXT), UNSUPPORTED_DATA),
        (masked(b"\xc0\0", CONTINUATION), PROTOCOL_ERROR),
        (masked(b"\xc0\0", reserved=0x40), PROTOCOL_ERROR),
        (b"\x82\x02\xc0\0", PROTOCOL_ERROR),
    ],
)
async def test_other_frames_end_the_connection_with_the_reason(door: WebDoor, frame: bytes, code: int) -> None:
    client, other, older = await door.connect("c"), await door.connect("o"), await door.connect("v", V311)
    for one in (client, older):
        ends_of(one).writer.write(frame)
        await one.closed()
        assert ends_of(one).close_code() == code
    assert (await client.hear(Disconnect)).reason is Reason.MALFORMED_PACKET
    assert older.heard == []
    await other.ping()


async def test_a_text_frame_instead_of_connect(door: WebDoor) -> None:
    client = await door.dial()
    ends_of(client).writer.write(masked(b"hello", TEXT))
    await client.closed()
    assert ends_of(client).close_code() == UNSUPPORTED_DATA
    assert len(door.server.admission) == 0


# The handshake


@pytest.mark.statement("MQTT-6.0.0-4")
@pytest.mark.parametrize(("asked", "spoken"), [("mqtt", "mqtt"), ("mqttv3.1", "mqttv3.1"), ("chat, mqtt", "mqtt")])
async def test_the_subprotocol_is_told(door: WebDoor, asked: str, spoken: str) -> None:
    _, answer = await door.ask("Sec-WebSocket-Extensions: permessage-deflate", protocol=asked)
    assert f"\r\nSec-WebSocket-Protocol: {spoken}\r\n" in answer
    assert "Extensions" not in answer


@pytest.mark.parametrize(
    ("head", "protocol", "status", "said"),
    [
        ((), "", 400, "send Sec-WebSocket-Protocol: mqtt"),
        ((), "chat", 400, "send Sec-WebSocket-Protocol: mqtt"),
        (("Sec-WebSocket-Version: 12",), "mqtt", 400, "not a WebSocket handshake"),
        (("Origin: https://evil.example",), "mqtt", 403, "http.origins"),
        (("Host: rebound.example",), "mqtt", 403, "http.hosts"),
    ],
)
async def test_who_may_not_is_told_before_there_is_a_websocket(
    door: WebDoor, head: tuple[str, ...], protocol: str, status: int, said: str
) -> None:
    _, answer = await door.ask(*head, protocol=protocol)
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert said in answer
    assert not door.server.connections


@pytest.mark.parametrize("origin", ["https://app.example.com", "http://{}"])
async def test_pages_of_its_own_and_of_those_that_were_named_may(door: WebDoor, origin: str) -> None:
    _, answer = await door.ask(f"Origin: {origin.format(door.address)}")
    assert answer.startswith("HTTP/1.1 101 ")


async def test_who_it_is_is_told_inside(tmp_path: Path) -> None:
    async with open_web_door(tmp_path) as door:
        directory = Directory(Keyspace(door.world.engine, "auth/"), door.world.clock.wall)
        strict = Strict(directory, AuthOptions(), lambda: 0.0)
        door.doorkeeper = strict
        await door.stop()
        await door.start()
        token = (await directory.create_token("ann"))[0]
        client = await door.dial(head=(f"Authorization: Bearer {token}",))
        client.write(Connect(V5, "c"))
        assert (await client.hear(Connack)).reason is Reason.NOT_AUTHORIZED
        await client.closed()
        client = await door.dial(head=("Authorization: Bearer wrong",))
        await client.greet("c", username="ann", password=token.encode())
        await until(lambda: [one.principal and one.principal.name for one in door.server.admission] == ["ann"])
        strict.close()


# The end


async def test_a_dismissed_client_reads_why_although_it_has_sent_more(door: WebDoor) -> None:
    client = await door.connect("c")
    client.write(*(Publish("a", b"x" * 1_000, 0) for _ in range(500)))
    door.server.admission.dismiss(lambda one: one.client == "c", BrokerError(Code.DISMISSED))
    client.write(*(Publish("a", b"x" * 1_000, 0) for _ in range(500)))
    assert (await client.hear(Disconnect)).reason is Reason.ADMINISTRATIVE_ACTION
    await client.closed()
    assert ends_of(client).close_code() == NORMAL
    await until(lambda: not door.server.admission)


@pytest.mark.parametrize("version", [V311, V5])
async def test_a_client_that_is_not_read_ends_by_its_answer(
    door: WebDoor, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr("broker.net.door.LINGER", 1_000)
    monkeypatch.setattr("broker.protocols.http.tunnel.LINGER", 1_000)
    client = await door.connect("c", version)
    (connection,) = door.server.connections
    connection.hold(reading=False)
    connection.dismiss(BrokerError(Code.DISMISSED))
    if version == V5:
        await client.hear(Disconnect)
    await client.closed()
    assert ends_of(client).close_code() == NORMAL
    await until(lambda: not door.server.admission)


@pytest.mark.parametrize("how", ["told", "untold", "goodbye"])
async def test_who_does_not_answer_the_close_is_let_go(
    door: WebDoor, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("broker.net.door.LINGER", 0.05)
    monkeypatch.setattr("broker.protocols.http.tunnel.LINGER", 0.05)
    client = await door.connect("c", V5 if how == "told" else V311)
    ends_of(client).answers = False
    if how == "goodbye":
        client.write(Disconnect())
    else:
        door.server.admission.dismiss(lambda _: True, BrokerError(Code.DISMISSED))
    await client.closed()
    assert ends_of(client).close_code() == NORMAL
    await until(lambda: not door.server.admission)


async def test_a_disconnect_ends_the_websocket(door: WebDoor) -> None:
    client = await door.connect("c")
    await client.leave()
    assert ends_of(client).close_code() == NORMAL
    assert not door.server.admission


async def test_a_close_is_answered_and_is_no_goodbye(door: WebDoor) -> None:
    watcher = await door.connect("w")
    await watcher.subscribe("will")
    client = await door.connect("c", will=Will("will", b"gone"))
    ends_of(client).writer.write(masked(b"\x03\xe9bye", CLOSE) + masked(encode(Publish("will", b"late", 0), V5)))
    await client.closed()
    assert ends_of(client).close_code() == 1001
    assert await watcher.bodies(1) == ["gone"]
    await watcher.nothing()


@pytest.mark.parametrize("payload", [b"", b"\x03"])
async def test_a_close_without_a_code_is_answered_without_one(door: WebDoor, payload: bytes) -> None:
    client = await door.connect("c")
    ends_of(client).writer.write(masked(payload, CLOSE))
    await client.closed()
    assert ends_of(client).frames == [(CLOSE, b"")]


async def test_a_lost_socket_publishes_the_will(door: WebDoor) -> None:
    watcher = await door.connect("w")
    await watcher.subscribe("will")
    client = await door.connect("c", will=Will("will", b"gone"))
    await client.lost()
    assert await watcher.bodies(1) == ["gone"]


async def test_a_stop_says_so_and_takes_no_more(door: WebDoor) -> None:
    client = await door.connect("c")
    door.server.drain()
    assert (await client.hear(Disconnect)).reason is Reason.SERVER_SHUTTING_DOWN
    await client.closed()
    _, answer = await door.ask()
    assert answer.startswith("HTTP/1.1 503 ")


# Bounds


async def test_who_says_nothing_is_let_go(tmp_path: Path) -> None:
    async with open_web_door(tmp_path, MqttOptions(connect_timeout="100ms")) as door:
        client = await door.dial()
        ends_of(client).writer.write(masked(b"", PING))
        await client.closed()
        assert [opcode for opcode, _ in ends_of(client).frames] == [PONG, CLOSE]


async def test_a_frame_is_never_kept_for_its_size(door: WebDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.protocols.http.tunnel.LINGER", 0.05)
    client = await door.dial()
    ends_of(client).writer.write(masked(b"\x10\xff\xff\xff\x7f" + b"x" * 1_000, size=1 << 40))
    await client.closed()
    assert not door.server.admission


async def test_a_packet_over_the_maximum(tmp_path: Path) -> None:
    async with open_web_door(tmp_path, limits=Limits(max_body=1_000)) as door:
        client = await door.connect("c")
        most = client.connack.properties["maximum_packet_size"]
        head = bytes((0x32, 0x80 | most & 127, 0x80 | most >> 7 & 127, most >> 14))
        ends_of(client).writer.write(masked(head, size=1 << 40))
        assert (await client.hear(Disconnect)).reason is Reason.PACKET_TOO_LARGE


async def test_connections_are_counted_with_those_of_other_doors(tmp_path: Path) -> None:
    async with open_web_door(tmp_path, limits=Limits(max_connections_per_principal=2)) as door:
        await door.connect("a")
        await door.connect("b")
        _, answer = await door.ask()
        assert "429" in answer.split("\r\n")[0]


async def test_a_slow_reader_is_let_go_and_harms_nobody(tmp_path: Path) -> None:
    async with open_web_door(tmp_path, limits=Limits(max_unsent_per_connection=1 << 16)) as door:
        slow, fast, writer = await door.connect("slow"), await door.connect("fast"), await door.connect("w")
        for one in (slow, fast):
            await one.subscribe("a", qos=0)
        bodies = 0
        while any(connection.client == "slow" for connection in door.server.connections):
            await writer.publish("a", "x" * 500_000)
            assert (await fast.hear(Publish)).payload == b"x" * 500_000
            bodies += 1
            assert bodies < 100
        await writer.ping()
        assert len(door.server.admission) == 2


async def test_a_reader_with_a_full_socket_is_waited_for(door: WebDoor) -> None:
    """40 MB would be more than the limit of what may be unsent."""
    reader, writer = await door.connect("r"), await door.connect("w")
    await reader.subscribe("a", qos=0)
    (connection,) = (one for one in door.server.connections if one.client == "r")
    for i in range(80):
        assert await writer.publish("a", f"{i:<500000}") is Reason.SUCCESS
    assert 1 << 20 < connection.unsent < 8 << 20
    assert [int(body) for body in await reader.bodies(80)] == list(range(80))


async def test_what_is_not_read_is_not_taken(door: WebDoor) -> None:
    client = await door.connect("c")
    (connection,) = door.server.connections
    connection.hold(reading=False)
    client.write(Pingreq())
    await client.nothing(Pingresp)
    connection.hold(reading=True)
    await client.hear(Pingresp)


async def test_pings_that_are_not_read_are_not_answered_for_ever(door: WebDoor) -> None:
    client = await door.connect("c")
    (connection,) = door.server.connections
    flood = masked(b"x" * 125, PING) * 1_000
    writer = ends_of(client).writer
    for _ in range(200):
        writer.write(flood)
        with_room = asyncio.wait_for(writer.drain(), 0.2)
        try:
            await with_room
        except TimeoutError:
            break
    assert connection.unsent < 3 << 20


@needed
async def test_packet_vectors_come_to_the_same_end(tmp_path: Path) -> None:
    """Every fourth; all of them are tried on a socket."""
    wrong: dict[str, str] = {}
    tried = 0
    options = MqttOptions(topic_alias_maximum=10, receive_maximum=20)
    async with open_web_door(tmp_path, options) as door:
        helper = await door.connect("helper")
        for vector in load()[::4]:
            if (vector.file, vector.version, vector.name) not in DIFFERS:
                tried += 1
                if said := await fault(door, helper, vector):
                    wrong[f"{vector} of version {vector.version}"] = said
    assert tried > 400
    assert wrong == {}
