"""Follow topics by server-sent events."""

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest

from broker.core.errors import BrokerError, Code
from broker.protocols.http.texts import SHARED_BYTES, Texts
from tests.protocols.http.conftest import PATIENCE, Door, DoorFactory, next_event, until


class Reader:
    """An EventSource."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._responses: list[aiohttp.ClientResponse] = []

    async def open(self, query: str, last: str | None = None) -> aiohttp.StreamReader:
        headers = {"Last-Event-ID": last} if last else {}
        response = await self._door.session.get(f"/v1/stream?{query}", headers=headers)
        self._responses.append(response)
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        return response.content

    def close(self) -> None:
        for response in self._responses:
            response.close()
        self._responses.clear()


@pytest.fixture
def reader(door: Door) -> Any:
    made = Reader(door)
    yield made
    made.close()


async def test_replay_joins_live_without_a_gap(door: Door, reader: Reader) -> None:
    for i in range(50):
        await door.publish("a", str(i), Content_Type="text/plain")
    publishing = asyncio.gather(*(door.publish("a", str(i), Content_Type="text/plain") for i in range(50, 150)))
    events = await reader.open("topic=a&from=earliest")
    start = await next_event(events)
    assert (start.name, start.data) == ("start", {"recovered": True, "position": f"{door.engine.epoch}.0"})
    seen = [await next_event(events) for _ in range(150)]
    await publishing
    assert sorted(int(e.data["body"]) for e in seen) == list(range(150))
    assert [e.data["offset"] for e in seen] == list(range(1, 151))
    assert all(e.name == "message" and e.id == e.data["position"] for e in seen)


async def test_a_request_with_a_body_is_not_cut_off_by_the_deadline_of_requests(door: Door) -> None:
    async with door.session.get("/v1/stream?topic=a", data=b"{}") as response:
        assert (await next_event(response.content)).name == "start"
        assert len(door.server._clockwork.arriving) == 0


async def test_a_reader_resumes_after_its_last_event(door: Door, reader: Reader) -> None:
    events = await reader.open("topic=a")
    assert (await next_event(events)).name == "start"
    await door.publish("a", b"1")
    last = (await next_event(events)).id
    reader.close()
    await until(lambda: len(door.server._streams) == 0)
    await door.publish("a", b"2")
    await door.restart()
    await door.publish("a", b"3")
    events = await reader.open("topic=a&from=latest", last)
    assert (await next_event(events)).data == {"recovered": True, "position": last}
    assert [(await next_event(events)).data["body_base64"] for _ in range(2)] == ["Mg==", "Mw=="]


async def test_a_position_of_another_log_is_told(door: Door, reader: Reader) -> None:
    await door.publish("a", b"1")
    start = await next_event(await reader.open("topic=a", "abcdef.1"))
    assert start.data["recovered"] is False


async def test_filters_in_queries(door: Door, reader: Reader) -> None:
    for topic in ("a/x", "b/x/y", "c", "d/x"):
        await door.publish(topic, b"1")
    for query, topics in (
        ("topic=a/*", ["a/x"]),
        ("topic=a/%2B&topic=b/**", ["a/x", "b/x/y"]),
        ("topic=%23", ["a/x", "b/x/y", "c", "d/x"]),
        ("topic=**", ["a/x", "b/x/y", "c", "d/x"]),
        ("topic=*/x", ["a/x", "d/x"]),
        ("topic=*/x/**", ["a/x", "b/x/y", "d/x"]),
    ):
        events = await reader.open(f"{query}&from=earliest")
        await next_event(events)
        assert [(await next_event(events)).data["topic"] for _ in topics] == topics, query


@pytest.mark.parametrize(
    ("query", "code", "spelling"),
    [
        ("topic=orders/+", "bad_filter", "orders/*"),
        ("topic=+/created", "bad_filter", "*/created"),
        ("topic=orders/", "bad_filter", "orders/**"),
        ("topic=", "bad_filter", "topic=**"),
        ("", "bad_filter", "?topic="),
        ("topic=**/x", "bad_filter", "last level"),
        ("topic=a/%23/b", "bad_filter", "last level"),
        ("topic=a%2Bb", "bad_filter", "whole level"),
        ("topic=a&from=+2", "bad_position", "%2B"),
        ("topic=a&from=x", "bad_position", "'x'"),
        ("topics=a", "bad_request", "topic, from"),
    ],
)
async def test_mangled_queries_are_refused_with_the_right_spelling(
    door: Door, query: str, code: str, spelling: str
) -> None:
    answer = await door("GET", f"/v1/stream?{query}")
    assert (answer.status, answer.code) == (400, code)
    assert spelling in answer.json["detail"]


async def test_a_last_event_id_that_is_none_is_refused(door: Door) -> None:
    assert (await door("GET", "/v1/stream?topic=a", Last_Event_ID="nonsense")).code == "bad_position"


async def test_heartbeats_show_that_the_stream_lives(open_door: DoorFactory) -> None:
    door = await open_door(heartbeat="100ms")
    async with door.session.get("/v1/stream?topic=a") as response, asyncio.timeout(PATIENCE):
        await next_event(response.content)
        for _ in range(2):
            assert await response.content.readline() == b":\n"
            assert await response.content.readline() == b"\n"


async def test_stopping_ends_streams_with_the_reason(door: Door, reader: Reader) -> None:
    events = await reader.open("topic=a")
    await next_event(events)
    await until(lambda: len(door.server._streams) == 1)
    await door.server.stop(1)
    end = await next_event(events)
    assert (end.name, end.data["code"]) == ("error", "shutting_down")
    assert await events.read() == b""


async def test_a_reader_that_the_engine_drops_is_told(door: Door, reader: Reader) -> None:
    events = await reader.open("topic=a")
    await next_event(events)
    await until(lambda: len(door.server._streams) == 1)
    (follower,) = door.server._streams._streams.values()
    follower.detached(BrokerError(Code.SLOW_READER, "too slow"))
    end = await next_event(events)
    assert end.data["code"] == "slow_reader"


async def test_a_reader_that_goes_leaves_nothing_behind(door: Door, reader: Reader) -> None:
    for _ in range(5):
        await next_event(await reader.open("topic=**"))
    await until(lambda: len(door.server._streams) == 5)
    reader.close()
    await until(lambda: len(door.server._streams) == 0)
    assert not door.engine.attachments
    await door.publish("a", b"1")


async def test_a_reader_that_does_not_read_harms_nobody_and_is_dropped(open_door: DoorFactory) -> None:
    door = await open_door(write_timeout="300ms")
    _, writer = await door.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /v1/stream?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: len(door.server._streams) == 1)
    (stream,) = door.server._streams._streams
    most = 0
    body = b"x" * 100_000
    for _ in range(120):
        await door.publish("a", body)
        transport = stream._connection.transport
        most = max(most, transport.get_write_buffer_size() if transport else 0)
    await until(lambda: len(door.server._streams) == 0)
    assert most < 2 << 20  # the window, not the backlog
    assert not door.engine.attachments


async def test_a_reader_that_wants_to_be_dropped_is_told_where_to_resume(open_door: DoorFactory) -> None:
    door = await open_door(slow_after="200ms")
    stream, writer = await door.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /v1/stream?topic=a&slow=drop HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: len(door.server._streams) == 1)
    for _ in range(120):
        await door.publish("a", b"x" * 100_000)
    await until(lambda: not door.engine.attachments)
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE):
        events = (await stream.read()).decode()
    problem = json.loads(events.partition("event: error\ndata: ")[2].partition("\n")[0])
    assert problem["code"] == "slow_reader"
    assert problem["position"] == re.findall(r"^id: (.*)$", events, re.MULTILINE)[-1]


async def test_a_thinned_reader_is_told_how_many_were_left_out(door: Door) -> None:
    stream, writer = await door.connect(limit=64 << 20)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /v1/stream?topic=a&slow=thin HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: len(door.server._streams) == 1)
    for _ in range(150):
        await door.publish("a", b"x" * 100_000)
    await door.publish("a", b"the last")
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE):
        events = (await stream.readuntil(b'"offset":151,')).decode()
    left_out = [json.loads(data)["left_out"] for data in re.findall(r"event: thinned\ndata: (.*)", events)]
    assert left_out
    assert events.count('data: {"id"') + sum(left_out) == 151


async def test_a_named_stream_is_read_from_its_cursor(door: Door, reader: Reader) -> None:
    for topic in ("a/x", "a/y", "b"):
        await door.publish(topic, b"1")
    await door.queue("bi", ["a/#"], kind="stream", **{"from": "earliest"})
    for query, topics in (("subscription=bi", ["a/x", "a/y"]), ("subscription=bi&topic=*/y", ["a/y"])):
        events = await reader.open(query)
        assert (await next_event(events)).data["recovered"] is True
        assert [(await next_event(events)).data["topic"] for _ in topics] == topics


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("subscription=none", 404, "unknown_subscription"),
        ("subscription=work", 409, "wrong_kind"),
        ("subscription=bi&from=earliest", 400, "bad_option"),
        ("topic=a&slow=never", 400, "bad_option"),
    ],
)
async def test_what_a_stream_cannot_be(door: Door, query: str, status: int, code: str) -> None:
    await door.queue("work", ["a"])
    await door.queue("bi", ["a"], kind="stream")
    answer = await door("GET", f"/v1/stream?{query}")
    assert (answer.status, answer.code) == (status, code)


async def test_a_reader_of_more_than_its_window_gets_everything(door: Door) -> None:
    body = b"x" * 50_000
    for _ in range(100):
        await door.publish("a", body)
    async with door.session.get("/v1/stream?topic=a&from=earliest") as response:
        await next_event(response.content)
        for offset in range(1, 101):
            assert (await next_event(response.content)).data["offset"] == offset


async def test_http_1_0_gets_a_stream_too(door: Door) -> None:
    await door.publish("a", b"1")
    stream, writer = await door.connect()
    writer.write(b"GET /v1/stream?topic=a&from=earliest HTTP/1.0\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        assert (await stream.readline()).startswith(b"HTTP/1.0 200")
        head = await stream.readuntil(b"\r\n\r\n")
        assert b"chunked" not in head
        await stream.readuntil(b"event: start")
        await stream.readuntil(b'"offset":1,')


async def test_many_readers_share_one_encoding(door: Door, reader: Reader) -> None:
    streams = [await reader.open("topic=a") for _ in range(20)]
    for events in streams:
        await next_event(events)
    await until(lambda: len(door.server._streams) == 20)
    await door.publish("a", b"1")
    for events in streams:
        assert (await next_event(events)).data["offset"] == 1
    assert len(door.server._streams._chunks._texts._known) == 1


async def test_json_with_line_breaks_stays_one_event(door: Door, reader: Reader) -> None:
    await door.publish("a", b'{"a":\r\n1,\r"b":\n"\\n"}', Content_Type="application/json")
    events = await reader.open("topic=a&from=earliest")
    await next_event(events)
    assert (await next_event(events)).data["body"] == {"a": 1, "b": "\n"}


def test_remembered_texts_are_bounded() -> None:
    texts = Texts()
    for offset in range(100):
        texts.of((offset, "a", 0, None, b"x" * 100_000), "e")
    assert sum(map(len, texts._known.values())) == texts._size <= SHARED_BYTES
    assert 99 in texts._known
