"""Requests that are answered without a task, beside the same ones that are not."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from broker.core.errors import BrokerError, Code
from broker.engine.base import Receipt, Unit
from broker.limits import Limits
from broker.protocols.http.exchange import Exchange
from broker.protocols.http.publish import PublishRoutes
from tests.protocols.http.conftest import PATIENCE, Answer, Door, DoorFactory, until

PATH = "/v1/topics/a/messages"
REQUEST = b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
EVENT = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order", "data": {"n": 1}}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Exchange]:
    """The exchanges that were begun."""
    found: list[Exchange] = []
    begin = Exchange.begin

    def note(exchange: Exchange) -> None:
        found.append(exchange)
        begin(exchange)

    monkeypatch.setattr(Exchange, "begin", note)
    return found


async def known(door: Door) -> None:
    """The path and the host have been asked for once, on a connection that is closed again."""
    closing = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert (await door.bare(closing)).startswith(b"HTTP/1.1 201 ")


@pytest.fixture
def withheld(monkeypatch: pytest.MonkeyPatch) -> Callable[[Door], list[Unit]]:
    """From now on the engine of a door keeps its units, for the test to answer."""

    def withhold(door: Door) -> list[Unit]:
        units: list[Unit] = []
        monkeypatch.setattr(door.engine, "commit", units.append)
        return units

    return withhold


def done(unit: Unit, receipt: Receipt) -> None:
    assert unit.done is not None
    unit.done(receipt)


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, Any]:
    """The first line and the JSON."""
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return head.partition(b"\r\n")[0], json.loads(await reader.readexactly(int(length.partition(b":")[2])))


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"", {}, 201),
        (b"x", {"Content-Type": "text/plain", "Postroom-Header-Colour": "red"}, 201),
        (b"x", {"Postroom-Key": "k", "Postroom-Priority": "7", "Postroom-Ttl": "60"}, 201),
        (b"x", {"Postroom-Delay": "1h"}, 201),
        (b"x", {"Idempotency-Key": '"once"'}, 201),
        (b"x", {"Postroom-Request-Id": "mine", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}, 201),
        (b"{}", {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/shop", "ce-type": "order"}, 201),
        (EVENT, {"Content-Type": "application/cloudevents+json"}, 201),
        ([EVENT, {**EVENT, "id": "8"}], {"Content-Type": "application/cloudevents-batch+json"}, 201),
        ([EVENT], {"Content-Type": "application/cloudevents-batch+json", "Postroom-Id": "one"}, 400),
        (b"", {"Content-Type": "application/cloudevents+xml"}, 400),
        (b"x", {"Postroom-Colour": "red"}, 400),
        (b"x", {"Postroom-Priority": "12"}, 400),
        (b"x" * 1_000, {}, 201),
        (b"x" * 1_001, {}, 413),
    ],
)
async def test_both_ways_give_the_same_answer(
    open_door: DoorFactory, begun: list[Exchange], data: Any, headers: dict[str, str], status: int
) -> None:
    door = await open_door(Limits(max_body=1_000))
    ordinary = await door("POST", "/v1/topics/b/messages", data, **headers)
    assert not begun
    await known(door)
    prompt = await door("POST", PATH, data, **headers)
    assert len(begun) == 1
    assert prompt.status == ordinary.status == status
    assert shape(prompt) == shape(ordinary)
    assert (await kept(door, "a"))[1:] == await kept(door, "b")


async def kept(door: Door, topic: str) -> list[Any]:
    messages = (await door("GET", f"/v1/topics/{topic}/messages?limit=1000")).json["messages"]
    varying = ("id", "offset", "position", "topic", "published_at", "expires_at")
    return [{name: value for name, value in m.items() if name not in varying} for m in messages]


def shape(answer: Answer) -> Any:
    names = [name for name in answer.headers if name not in ("Date", "Content-Length")]
    request_id = answer.headers["Postroom-Request-Id"]
    value = {**answer.json}
    for name in ("id", "offset", "position", "due", "duplicate", "receipts"):
        value[name] = type(value.get(name)).__name__
    return sorted(names), request_id == "mine", answer.headers["Content-Type"], value


async def test_what_is_pipelined_is_answered_in_its_order(door: Door, begun: list[Exchange]) -> None:
    await known(door)
    reader, writer = await door.connect()
    writer.write((REQUEST + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + REQUEST) * 50)
    lines, offsets = [], []
    for _ in range(150):
        line, value = await answer_of(reader)
        lines.append(line)
        offsets += [value["offset"]] if "offset" in value else []
    assert lines == [b"HTTP/1.1 201 Created", b"HTTP/1.1 200 OK", b"HTTP/1.1 201 Created"] * 50
    assert offsets == sorted(set(offsets))
    assert begun
    writer.close()


async def test_a_refused_commit_is_told_and_the_connection_stays(
    door: Door, withheld: Callable[[Door], list[Unit]], begun: list[Exchange]
) -> None:
    await known(door)
    units = withheld(door)
    reader, writer = await door.connect()
    writer.write(REQUEST)
    await until(lambda: bool(units))
    done(units.pop(), Receipt(error=BrokerError(Code.DISK_LOW)))
    line, value = await answer_of(reader)
    assert (line, value["code"]) == (b"HTTP/1.1 503 Service Unavailable", "disk_low")
    writer.write(REQUEST)
    await until(lambda: bool(units))
    done(units.pop(), Receipt(7, 1))
    assert (await answer_of(reader))[1]["offset"] == 7
    assert len(begun) == 2
    writer.close()


async def test_a_commit_that_takes_too_long_is_told_once(
    open_door: DoorFactory, withheld: Callable[[Door], list[Unit]]
) -> None:
    door = await open_door(answer_timeout="200ms")
    await known(door)
    units = withheld(door)
    reader, writer = await door.connect()
    writer.write(REQUEST)
    line, value = await answer_of(reader)
    assert (line, value["code"]) == (b"HTTP/1.1 504 Gateway Timeout", "timeout")
    done(units.pop(), Receipt(7, 1))
    writer.write(REQUEST)
    await until(lambda: bool(units))
    done(units.pop(), Receipt(8, 1))
    assert (await answer_of(reader))[1]["offset"] == 8
    assert not len(door.server._clockwork.committing)
    writer.close()


async def test_who_goes_before_the_commit_is_counted_as_gone(
    door: Door, withheld: Callable[[Door], list[Unit]], caplog: pytest.LogCaptureFixture
) -> None:
    await known(door)
    units = withheld(door)
    _, writer = await door.connect()
    writer.write(REQUEST)
    await until(lambda: bool(units))
    connected: socket.socket = writer.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset: it will not read on
    writer.transport.abort()
    await until(lambda: not door.server._admission)
    done(units.pop(), Receipt(7, 1))
    assert not len(door.server._clockwork.committing)
    assert door.hub.flow.uncommitted == 0
    metrics = (await door("GET", "/metrics")).body.decode()
    assert 'postroom_http_requests_total{route="publish",status="0"} 1.0' in metrics
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_keep_alive_does_not_end_what_waits_for_its_commit(
    open_door: DoorFactory, withheld: Callable[[Door], list[Unit]]
) -> None:
    door = await open_door(keepalive="200ms")
    await known(door)
    units = withheld(door)
    reader, writer = await door.connect()
    writer.write(REQUEST)
    await until(lambda: bool(units))
    passed: list[bool] = []
    asyncio.get_running_loop().call_later(0.5, passed.append, True)
    await until(lambda: bool(passed))
    done(units.pop(), Receipt(7, 1))
    assert (await answer_of(reader))[1]["offset"] == 7
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""  # then it is idle
    writer.close()


async def test_a_dismissed_connection_gets_its_receipt_first(
    door: Door, withheld: Callable[[Door], list[Unit]]
) -> None:
    await known(door)
    units = withheld(door)
    reader, writer = await door.connect()
    writer.write(REQUEST + REQUEST)
    await until(lambda: bool(units))
    door.server._admission.dismiss(lambda connection: True, BrokerError(Code.FORBIDDEN, "told to go"))
    done(units.pop(), Receipt(7, 1))
    assert (await answer_of(reader))[1]["offset"] == 7
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    assert not units
    await until(lambda: not door.server._admission)
    writer.close()


async def test_a_stop_waits_for_the_commit(door: Door, withheld: Callable[[Door], list[Unit]]) -> None:
    await known(door)
    units = withheld(door)
    reader, writer = await door.connect()
    writer.write(REQUEST)
    await until(lambda: bool(units))
    stopping = asyncio.create_task(door.server.stop(PATIENCE))
    await until(lambda: door.server._stopping)
    await asyncio.sleep(0)
    assert not stopping.done()
    done(units.pop(), Receipt(7, 1))
    assert (await answer_of(reader))[1]["offset"] == 7
    await asyncio.wait_for(stopping, PATIENCE)


async def test_a_fault_of_ours_is_told_and_logged(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await known(door)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("the inside")

    monkeypatch.setattr(PublishRoutes, "_prepare", fail)
    answer = await door("POST", PATH, b"x")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"inside" not in answer.body
    assert "the inside" in caplog.text


@pytest.mark.parametrize(
    "changed",
    [
        (b"Host: localhost", b"Host: localhost\r\nOrigin: https://evil.example", b" 403 "),
        (b"Host: localhost", b"Host: evil.example", b" 403 "),
        (b"/messages ", b"/messages?a=b ", b" 400 "),
        (b"POST", b"PUT", b" 405 "),
        (b"HTTP/1.1", b"HTTP/1.0", b" 201 "),
        (b"\r\n\r\nx", b"\r\nExpect: 100-continue\r\n\r\nx", b" 201 "),
        (b"1\r\n\r\nx", b"11\r\nContent-Encoding: gzip\r\n\r\nnot gzip at", b" 400 "),
        (b"Content-Length: 1\r\n\r\nx", b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", b" 408 "),
    ],
)
async def test_what_is_unusual_goes_the_ordinary_way(
    open_door: DoorFactory, begun: list[Exchange], changed: tuple[bytes, bytes, bytes]
) -> None:
    door = await open_door(request_timeout="300ms")
    await known(door)
    before, after, status = changed
    assert before in REQUEST
    reader, writer = await door.connect()
    writer.write(REQUEST.replace(before, after))
    assert status in await asyncio.wait_for(reader.readline(), PATIENCE)
    assert not begun
    writer.close()


async def test_a_flood_of_a_client_that_does_not_read_is_bounded(door: Door, begun: list[Exchange]) -> None:
    await known(door)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # so that little is on its way
    host, port = door.address.rsplit(":", 1)
    sock.connect((host, int(port)))
    _, writer = await asyncio.open_connection(sock=sock, limit=1 << 10)
    door.writers.append(writer)
    writer.write(REQUEST * 50_000)
    await until(lambda: any(connection.writing_paused for connection in door.server.connections))
    for _ in range(20):
        await door.publish("else", b"1")
    assert max(connection.unsent for connection in door.server.connections) < 200_000
    assert begun
