"""Connections that are slow, broken, too many or not for us."""

import asyncio

import pytest

from broker.core.errors import BrokerError, Code
from broker.engine.base import Unit
from broker.limits import Limits
from broker.net.address import is_here, peer_of
from broker.protocols.http import connection as connection_module
from broker.protocols.http.connection import Connection
from tests.protocols.http.conftest import PATIENCE, Door, DoorFactory, next_event, until

REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
PUBLISH = b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"


async def read_all(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), PATIENCE)


def open_connections(door: Door) -> list[Connection]:
    return door.server.connections


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HT",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: y",
        b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf",
        b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf",
    ],
)
async def test_a_request_that_does_not_arrive_is_ended(open_door: DoorFactory, sent: bytes) -> None:
    door = await open_door(request_timeout="200ms")
    answer = await door.bare(sent)
    assert b"HTTP/1.1 408 Request Timeout" in answer
    assert b'"code": "timeout"' in answer
    await until(lambda: not open_connections(door))
    assert not door.server._admission
    assert not door.engine.topics()


async def test_a_later_request_that_does_not_arrive_is_ended(open_door: DoorFactory) -> None:
    door = await open_door(request_timeout="200ms")
    reader, writer = await door.connect()
    writer.write(REQUEST)
    await reader.readuntil(b"alive")
    writer.write(b"GET /livez HT")
    assert b"HTTP/1.1 408 " in await read_all(reader)


async def test_the_beginning_of_a_request_behind_a_whole_one_is_bounded_by_the_keep_alive(
    open_door: DoorFactory,
) -> None:
    door = await open_door(keepalive="200ms")
    assert (await door.bare(REQUEST + b"GET /livez HT")).count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("first", [REQUEST, PUBLISH], ids=["ordinary", "prompt"])
async def test_half_a_body_behind_a_whole_request_is_ended(open_door: DoorFactory, first: bytes) -> None:
    door = await open_door(request_timeout="200ms")
    await door.publish("a", b"x")
    half = PUBLISH.replace(b"Content-Length: 1", b"Content-Length: 10")
    answers = await door.bare(first + half)
    assert answers.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 408 " in answers
    await until(lambda: len(open_connections(door)) == 1)  # the one that published


async def test_half_a_body_behind_a_whole_request_is_known_to_be_arriving(door: Door) -> None:
    half = PUBLISH.replace(b"Content-Length: 1", b"Content-Length: 100000")
    reader, writer = await door.connect()
    writer.write(REQUEST + half + b"x" * 50_000)
    await reader.readuntil(b"alive")
    await until(lambda: sum(connection.arriving for connection in open_connections(door)) > 40_000)
    assert dismiss_all(door) == 1
    assert b"told to go" in await read_all(reader)


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("warm", [False, True], ids=["ordinary", "prompt"])
async def test_a_client_that_closes_its_side_has_its_answers(door: Door, count: int, *, warm: bool) -> None:
    if warm:
        await door.publish("a", b"x")
    reader, writer = await door.connect()
    writer.write(PUBLISH * count)
    writer.write_eof()
    assert (await read_all(reader)).count(b"HTTP/1.1 201 ") == count
    await until(lambda: len(open_connections(door)) == warm)


async def test_a_poll_whose_client_closes_its_side_takes_nothing(door: Door) -> None:
    await door("PUT", "/v1/subscriptions/q", {"kind": "queue", "topics": ["a"]})
    reader, writer = await door.connect()
    writer.write(b"POST /v1/queues/q/receive?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: any(found._busy for found in open_connections(door)))
    writer.write_eof()
    assert await read_all(reader) == b""
    await door.publish("a", b"x")
    assert door.engine.subscription("q").leased == 0


async def test_half_a_request_whose_client_closes_its_side_is_not_waited_for(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(PUBLISH.replace(b"Content-Length: 1", b"Content-Length: 10"))
    writer.write_eof()
    assert await read_all(reader) == b""
    assert not door.engine.topics()


async def test_a_request_that_trickles_is_ended(open_door: DoorFactory) -> None:
    door = await open_door(request_timeout="300ms")
    reader, writer = await door.connect()
    answer = asyncio.create_task(read_all(reader))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ")
    for _ in range(500):
        writer.write(b"y")
        done, _ = await asyncio.wait([answer], timeout=0.02)
        if done:
            break
    assert b" 408 " in answer.result()


async def test_a_connection_that_says_nothing_is_closed_in_silence(open_door: DoorFactory) -> None:
    door = await open_door(request_timeout="200ms")
    reader, _ = await door.connect()
    assert await read_all(reader) == b""


async def test_an_idle_connection_is_kept_and_then_closed(open_door: DoorFactory) -> None:
    door = await open_door(request_timeout="100ms", keepalive="700ms")
    loop = asyncio.get_running_loop()
    reader, writer = await door.connect()
    began = loop.time()
    for _ in range(2):
        writer.write(b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
        assert await reader.readline() == b"HTTP/1.1 201 Created\r\n"
        await reader.readuntil(b"}")
    assert await read_all(reader) == b""
    assert loop.time() - began > 0.5  # the keep-alive's time, not the request's


async def test_a_long_poll_is_no_late_request(open_door: DoorFactory) -> None:
    door = await open_door(request_timeout="100ms")
    await door.queue("q", ["a"])
    poll = asyncio.create_task(door.receive("q", 1, wait=10))
    late: list[bool] = []
    await until(lambda: bool(door.server._receivers.get("q")) and not len(door.server._clockwork.arriving))
    asyncio.get_running_loop().call_later(0.3, late.append, True)
    await until(lambda: bool(late))
    await door.publish("a", b"1")
    assert len(await poll) == 1


async def test_a_request_pipelined_behind_a_long_poll_waits_its_turn(open_door: DoorFactory) -> None:
    door = await open_door(request_timeout="150ms")
    await door.queue("q", ["a"])
    reader, writer = await door.connect()
    writer.write(
        b"POST /v1/queues/q/receive?wait=0.5 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" + REQUEST
    )
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    rest = await asyncio.wait_for(reader.readuntil(b"alive"), PATIENCE)
    assert b"408" not in rest
    writer.close()


async def test_an_answer_that_nobody_reads_is_dropped(open_door: DoorFactory) -> None:
    door = await open_door(write_timeout="200ms")
    for _ in range(12):
        await door.publish("a", b"x" * 1_000_000)
    _, writer = await door.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\n\r\n" * 12)
    await until(lambda: any(c.writing_paused for c in open_connections(door)))
    await until(lambda: not any(c.writing_paused for c in open_connections(door)))
    await until(lambda: len(open_connections(door)) == 1)  # the one that published
    assert (await door("GET", "/livez")).status == 200


async def test_too_many_connections_are_refused_and_told(open_door: DoorFactory) -> None:
    door = await open_door(Limits(max_connections=2))
    held = [await door.connect() for _ in range(2)]
    await until(lambda: len(open_connections(door)) == 2)
    assert (await door.bare(REQUEST)).startswith(b"HTTP/1.1 503 Service Unavailable")
    for _, writer in held:
        writer.close()
    await until(lambda: not door.server._admission)
    assert (await door("GET", "/livez")).status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"HELLO\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET /livez HTTP/0.9\r\n\r\n", 400),
        (b"GET /livez HTTP/2.0\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
        (b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(1_000)) + b"\r\n", 400),
    ],
)
async def test_what_is_not_http_is_told_and_closed(door: Door, sent: bytes, status: int) -> None:
    answer = await door.bare(sent)
    assert answer.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status))
    assert b"application/problem+json" in answer
    assert (await door("GET", "/livez")).status == 200


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
CHUNKED = PUBLISH.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n" + H2C + b"1\r\nx\r\n0\r\n\r\n"
ASKS_FOR_ANOTHER = [REQUEST[:-2] + H2C, PUBLISH.replace(b"\r\n\r\n", b"\r\n" + H2C), CHUNKED]


@pytest.mark.parametrize("first", ASKS_FOR_ANOTHER, ids=["without a body", "with one", "in chunks"])
@pytest.mark.parametrize("before", [b"", REQUEST], ids=["alone", "behind another"])
async def test_no_request_goes_unanswered_behind_one_that_asks_for_another_protocol(
    door: Door, first: bytes, before: bytes
) -> None:
    answers = await door.bare(before + first + REQUEST)
    assert answers.count(b"HTTP/1.1 20") == answers.count(b"HTTP/1.1 ") == (2 if before else 1)
    assert answers.count(b"Connection: close") == 1  # the last, so that the client asks for the rest again


@pytest.mark.parametrize("first", ASKS_FOR_ANOTHER[:2], ids=["without a body", "with one"])
@pytest.mark.parametrize("cut", [10_000, -1], ids=["whole", "cut"])
async def test_who_always_asks_for_another_protocol_keeps_the_connection(door: Door, first: bytes, cut: int) -> None:
    reader, writer = await door.connect()
    cut = cut if first.endswith(b"x") else len(first)
    for _ in range(3):
        writer.write(first[:cut])
        if first[cut:]:
            await until(lambda: any(connection.arriving for connection in open_connections(door)))
            writer.write(first[cut:])
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 20")
        assert b"Connection: close" not in head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))


async def test_a_body_cut_before_its_end_hides_no_request_behind_it(door: Door) -> None:
    first = ASKS_FOR_ANOTHER[1]
    reader, writer = await door.connect()
    writer.write(first[:-1])
    await until(lambda: any(connection.arriving for connection in open_connections(door)))
    writer.write(first[-1:] + REQUEST)
    assert (await read_all(reader)).count(b"HTTP/1.1 ") == 1


async def test_a_client_from_elsewhere_is_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "is_here", lambda address: False)
    await door.session.close()
    for path in ("/v1/topics", "/metrics", "/v1/stream?topic=a", "/v1/queues/q/receive", "/nowhere"):
        answer = await door.bare(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % path.encode())
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"[auth]" in answer


@pytest.mark.parametrize(
    ("peer", "known"),
    [
        (("127.0.0.1", 1), True),
        (("127.9.9.9", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("192.168.1.7", 1), False),
        (("::ffff:10.0.0.1", 1, 0, 0), False),
        ("", True),
    ],
)
def test_who_is_on_this_machine(peer: object, known: bool) -> None:
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return peer

    address, _ = peer_of(Transport())
    assert is_here(address) is known


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:7680", None, 200),
        ("127.0.0.1", None, 200),
        ("[::1]:7680", None, 200),
        ("[::1]", None, 200),
        ("192.168.1.7:7680", None, 200),
        ("a.localhost", None, 200),
        ("Broker.Example:7680", None, 200),
        ("", None, 200),
        ("evil.example", None, 403),
        ("evil.example:7680", None, 403),
        ("localhost.evil.example", None, 403),
        ("localhost:7680", "http://localhost:7680", 200),
        ("localhost:7680", "https://evil.example", 403),
        ("localhost:7680", "http://localhost:8000", 403),
        ("localhost:7680", "null", 403),
        ("localhost:7680", "http://[", 403),
    ],
)
async def test_pages_of_others_may_not_speak_for_the_person_here(
    open_door: DoorFactory, host: str, origin: str | None, status: int
) -> None:
    door = await open_door(hosts=["broker.example"])
    headers = f"Host: {host}\r\n" + (f"Origin: {origin}\r\n" if origin else "")
    for _ in range(2):
        answer = await door.bare(f"GET /v1/topics HTTP/1.1\r\nConnection: close\r\n{headers}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer


async def test_a_stop_lets_a_publish_finish(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
    await until(lambda: door.engine.stats().pending_units > 0 or door.engine.stats().committed_messages == 1)
    await door.server.stop(5)
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    with pytest.raises(OSError):
        await door.connect()


async def test_a_stop_does_not_wait_for_idle_or_half_sent_requests(door: Door) -> None:
    reader, _ = await door.connect()
    half, writer = await door.connect()
    writer.write(b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nx")
    await until(lambda: any(c._busy for c in open_connections(door)))
    async with asyncio.timeout(PATIENCE):
        await door.server.stop(0.1)
    assert await read_all(reader) == b""
    await read_all(half)
    assert not door.server._admission


# Dismissed connections

GONE = BrokerError(Code.FORBIDDEN, "told to go")


def dismiss_all(door: Door) -> int:
    return door.server._admission.dismiss(lambda connection: connection.door == "http", GONE)


async def test_a_dismissed_stream_is_told_and_ends(door: Door) -> None:
    async with door.session.get("/v1/stream", params={"topic": "a"}) as response:
        assert (await next_event(response.content)).name == "start"
        assert dismiss_all(door) == 1
        event = await next_event(response.content)
        assert (event.name, event.data["code"], event.data["detail"]) == ("error", "forbidden", "told to go")
        assert await response.content.read() == b""
    await until(lambda: not door.server._admission)


async def test_a_dismissed_poll_is_answered_with_the_reason(door: Door) -> None:
    await door.queue("q", ["a"])
    poll = asyncio.create_task(door("POST", "/v1/queues/q/receive?wait=30"))
    await until(lambda: any(c.on_dismiss for c in open_connections(door)))
    dismiss_all(door)
    answer = await asyncio.wait_for(poll, PATIENCE)
    assert (answer.status, answer.code) == (403, "forbidden")
    await until(lambda: not door.server._admission)
    await door.publish("a", "x")
    assert len(await door.receive("q")) == 1


async def test_a_dismissed_idle_connection_is_closed(door: Door) -> None:
    assert (await door("GET", "/livez")).status == 200
    assert dismiss_all(door) == 1
    await until(lambda: not door.server._admission)
    assert (await door("GET", "/livez")).status == 200


async def test_a_dismissed_publisher_gets_its_receipt_first(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = door.engine.commit

    def commit_and_dismiss(unit: Unit) -> None:
        commit(unit)
        dismiss_all(door)

    monkeypatch.setattr(door.engine, "commit", commit_and_dismiss)
    answer = await door.bare(PUBLISH + REQUEST)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_half_a_request_of_a_dismissed_connection_is_answered_with_the_reason(door: Door) -> None:
    reader, writer = await door.connect()
    writer.write(b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
    await until(lambda: any(c._busy for c in open_connections(door)))
    dismiss_all(door)
    assert b"told to go" in await read_all(reader)
    assert not door.engine.topics()


async def test_publishes_of_a_client_that_does_not_read_wait(open_door: DoorFactory) -> None:
    door = await open_door()
    body = b"[" + b",".join([b'{"topic":"flood","body":1}'] * 500) + b"]"
    head = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    _, writer = await door.connect(limit=1 << 10)
    writer.write((head + body) * 400)
    await until(lambda: any(connection.writing_paused for connection in open_connections(door)))
    for _ in range(20):  # each is a commit of its own, and in each there would be room for one more of the flood
        await door.publish("else", b"1")
    assert max(connection.unsent for connection in open_connections(door)) < 200_000
