"""Publish and replay over HTTP."""

import asyncio
import gzip
import json

import pytest

from broker.core.errors import BrokerError, Code
from broker.engine.base import Receipt, Unit
from broker.limits import Limits
from tests.protocols.http.conftest import PATIENCE, Door, DoorFactory

PATH = "/v1/topics/orders/created/messages"


async def test_a_receipt_says_where_the_message_is_on_disk(door: Door) -> None:
    receipt = await door.publish("orders/created", {"id": 7})
    assert receipt == {
        "id": receipt["id"],
        "offset": 1,
        "position": f"{door.engine.epoch}.1",
        "duplicate": False,
    }
    await door.restart()
    (message,) = (await door("GET", PATH)).json["messages"]
    assert (message["id"], message["offset"], message["position"]) == (receipt["id"], 1, receipt["position"])


async def test_what_is_in_no_log_has_no_place(door: Door) -> None:
    """Topics of durability `memory`, of which `$reply/#` is one."""
    receipt = await door.publish("$reply/a", "1")
    assert receipt == {"id": None, "offset": None, "position": None, "duplicate": False}
    receipt = await door.publish("$reply/a", "1", Postroom_Id="mine")
    assert receipt == {"id": "mine", "offset": None, "position": None, "duplicate": False}
    both = [{"topic": "$reply/a", "body": 1}, {"topic": "a", "body": 2}]
    (passed, stored) = (await door("POST", "/v1/messages", both, Content_Type="application/json")).json["receipts"]
    assert (passed["offset"], passed["position"], passed["id"]) == (None, None, None)
    (message,) = (await door("GET", "/v1/topics/a/messages")).json["messages"]
    assert (message["id"], message["offset"]) == (stored["id"], stored["offset"])


async def test_every_option_comes_back(door: Door) -> None:
    await door.publish(
        "orders/created",
        "héllo",
        Content_Type="text/plain",
        Postroom_Id="the-id",
        Postroom_Key="customer 7",
        Postroom_Priority="9",
        Postroom_Ttl="5m",
        Postroom_Header_Trace="abc",
        Postroom_Header_X_Y="d e",
    )
    (message,) = (await door("GET", PATH)).json["messages"]
    assert message["id"] == "the-id"
    assert message["key"] == "customer 7"
    assert message["priority"] == 9
    assert message["headers"] == {"trace": "abc", "x-y": "d e"}
    assert message["content_type"] == "text/plain"
    assert message["body"] == "héllo"
    assert message["expires_at"] > message["published_at"]


async def test_a_message_without_options_shows_every_member(door: Door) -> None:
    await door.publish("a", b"\xff\x00")
    (message,) = (await door("GET", "/v1/topics/a/messages")).json["messages"]
    assert message["body_base64"] == "/wA="
    assert {name: message[name] for name in ("key", "headers", "content_type", "priority")} == {
        "key": None,
        "headers": {},
        "content_type": None,
        "priority": 0,
    }
    assert "body" not in message


async def test_the_same_id_is_stored_once(door: Door) -> None:
    first = await door.publish("a", b"1", Postroom_Id="x")
    second = await door.publish("a", b"1", Postroom_Id="x")
    assert (first["offset"], first["duplicate"]) == (second["offset"], False)
    assert second["duplicate"]
    assert len((await door("GET", "/v1/topics/a/messages")).json["messages"]) == 1


async def test_a_delayed_message_is_listed_and_cancelled(door: Door) -> None:
    receipt = await door.publish("a", b"1", Postroom_Id="x/1", Postroom_Delay="1h")
    assert receipt["offset"] is None
    assert receipt["position"] is None
    listed = (await door("GET", "/v1/scheduled")).json["scheduled"]
    assert listed == [{"id": "x/1", "due": receipt["due"], "topic": "a"}]
    assert (await door("DELETE", "/v1/scheduled/x%2F1")).status == 204
    gone = await door("DELETE", "/v1/scheduled/x%2F1")
    assert (gone.status, gone.code) == (404, "not_found")
    assert (await door("GET", "/v1/scheduled")).json == {"scheduled": []}


@pytest.mark.parametrize(
    ("path", "topic"),
    [
        ("orders/created", "orders/created"),
        ("orders%2Fcreated", "orders/created"),
        ("/a//b/", "/a//b/"),
        ("caf%C3%A9", "café"),
        ("a%20b", "a b"),
        ("100%25", "100%"),
        ("a%3Fb", "a?b"),
        ("%252F", "%2F"),
        ("messages", "messages"),
        ("x/messages", "x/messages"),
    ],
)
async def test_topics_keep_their_levels_in_paths(door: Door, path: str, topic: str) -> None:
    await door.publish(path, b"1")
    assert [t.name for t in door.engine.topics()] == [topic]
    (message,) = (await door("GET", f"/v1/topics/{path}/messages")).json["messages"]
    assert message["topic"] == topic


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("a+b", "bad_topic"),
        ("a/%23", "bad_topic"),
        ("a%00", "bad_topic"),
        ("%FF", "bad_request"),
        ("$sys/x", "forbidden"),
    ],
)
async def test_other_topics_are_refused(door: Door, path: str, code: str) -> None:
    assert (await door("POST", f"/v1/topics/{path}/messages", b"1")).code == code


@pytest.mark.parametrize(
    "headers",
    [
        {"Postroom_Priority": "10"},
        {"Postroom_Priority": "high"},
        {"Postroom_Delay": "soon"},
        {"Postroom_Ttl": "0"},
        {"Postroom_Ttl": "-1"},
        {"Postroom_Delay": "inf"},
        {"Postroom_Id": "x" * 256},
        {"Postroom_Kee": "x"},
        {"Postroom_Header_": "x"},
        {"Content_Type": "x" * 300},
    ],
)
async def test_options_that_do_not_fit_are_refused(door: Door, headers: dict[str, str]) -> None:
    answer = await door("POST", PATH, b"1", **headers)
    assert (answer.status, answer.code) == (400, "bad_option")
    assert not door.engine.topics()


async def test_a_header_that_is_given_twice_or_is_not_utf8_is_refused(door: Door) -> None:
    head = b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n"
    twice = await door.bare(head + b"Postroom-Key: a\r\npostroom-key: b\r\n\r\nx")
    assert b"given twice" in twice
    for name in (b"Postroom-Key", b"Postroom-Header-X", b"Content-Type"):
        assert (await door.bare(head + name + b": \xff\r\n\r\nx")).startswith(b"HTTP/1.1 400 ")
    assert not door.engine.topics()


@pytest.mark.parametrize("over", [0, 1])
async def test_the_limit_of_a_body_is_exact(open_door: DoorFactory, over: int) -> None:
    door = await open_door(Limits(max_body=1000))
    answer = await door("POST", PATH, b"x" * (1000 + over))
    assert answer.status == (413 if over else 201)
    if over:
        assert answer.code == "message_too_large"
        assert "1001" in answer.json["detail"]


async def test_a_body_that_grows_beyond_the_limit_is_refused(open_door: DoorFactory) -> None:
    door = await open_door(Limits(max_body=1000))
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert (await door("POST", PATH, bomb, Content_Encoding="gzip")).code in ("message_too_large", "bad_request")
    chunks = b"".join(b"64\r\n" + b"x" * 100 + b"\r\n" for _ in range(60_000)) + b"0\r\n\r\n"
    head = b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader, writer = await door.connect()
    writer.write(head + chunks)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
    assert not door.engine.topics()


async def test_a_compressed_body_is_stored_unpacked(door: Door) -> None:
    await door.publish("a", gzip.compress(b"plain"), Content_Encoding="gzip", Content_Type="text/plain")
    assert (await door("GET", "/v1/topics/a/messages")).json["messages"][0]["body"] == "plain"
    for broken in (b"no gzip at all", gzip.compress(b"cut off")[:-1]):
        assert (await door("POST", PATH, broken, Content_Encoding="gzip")).code == "bad_request"
    assert (await door("POST", PATH, b"x", Content_Encoding="br")).code == "bad_request"
    assert [message["topic"] for message in (await door("GET", "/v1/topics/%23/messages")).json["messages"]] == ["a"]


async def test_a_transfer_coding_that_is_not_undone_is_refused(door: Door) -> None:
    await door.publish("orders/created", b"x")  # the next one may be answered without a task
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    packed = gzip.compress(b"x")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
    assert b"HTTP/1.1 400 " in await door.bare(f"{head}Transfer-Encoding: gzip, chunked\r\n\r\n".encode() + body)
    assert b"HTTP/1.1 201 " in await door.bare(f"{head}Transfer-Encoding: Chunked\r\n\r\n".encode() + body)
    assert b"HTTP/1.1 201 " in await door.bare(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body)


async def test_a_compressed_body_that_unpacks_to_nothing_has_an_end(open_door: DoorFactory) -> None:
    door = await open_door(Limits(max_body=10_000))
    reader, writer = await door.connect()
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n".encode())
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    nothing = gzip.compress(b"") * 50
    for _ in range(20):
        writer.write(b"%x\r\n%b\r\n" % (len(nothing), nothing))
    assert (await asyncio.wait_for(reader.readline(), PATIENCE)).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_a_client_that_asks_first_is_told_before_it_sends(open_door: DoorFactory) -> None:
    door = await open_door(Limits(max_body=1000))
    head = (
        b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    )
    reader, writer = await door.connect()
    writer.write(head % 3)
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    writer.write(b"abc")
    await reader.readline()
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    writer.close()
    reader, writer = await door.connect()
    writer.write(head % 5000)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_a_commit_that_takes_too_long_is_told_as_unknown(open_door: DoorFactory) -> None:
    door = await open_door(answer_timeout="100ms")
    kept: list[Unit] = []
    commit = door.engine.commit
    door.engine.commit = kept.append  # type: ignore[assignment,method-assign]  # a disk that hangs
    answer = await door("POST", PATH, b"1")
    assert (answer.status, answer.code) == (504, "timeout")
    assert len(kept) == 1
    assert kept[0].done is not None
    kept[0].done(Receipt(error=BrokerError(Code.STORAGE_FAILED)))  # too late: nobody listens any more
    door.engine.commit = commit  # type: ignore[method-assign]
    assert (await door("POST", PATH, b"1")).status == 201


async def test_a_publisher_that_goes_away_harms_nobody(door: Door) -> None:
    body = b"x" * 100
    head = b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    for sent in (head[:20], head, head + body[:50], head + body):
        _, writer = await door.connect()
        writer.write(sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    await door.publish("b", b"1")
    messages = (await door("GET", "/v1/topics/a/messages")).json["messages"]
    assert len(messages) <= 1  # the last one was whole


async def test_pipelined_requests_are_answered_in_order(door: Door) -> None:
    head = b"POST /v1/topics/a/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
    sent = b"".join(head + b"\r\n%02d" % i for i in range(9)) + head + b"Connection: close\r\n\r\n09"
    answer = await door.bare(sent)
    assert answer.count(b"HTTP/1.1 201 ") == 10
    rows = (await door("GET", "/v1/topics/a/messages")).json["messages"]
    assert len(rows) == 10


# Replay


async def test_replay_goes_on_from_next(door: Door) -> None:
    for i in range(5):
        await door.publish("a", {"n": i}, Content_Type="application/json")
        await door.publish("b", b"other")
    seen: list[int] = []
    path = "/v1/topics/a/messages?limit=2"
    position = ""
    for _ in range(3):
        page = (await door("GET", path + position)).json
        seen += [m["body"]["n"] for m in page["messages"]]
        assert page["recovered"] is True
        position = f"&from={page['next']}"
    assert seen == [0, 1, 2, 3, 4]
    assert (await door("GET", path + position)).json["messages"] == []


@pytest.mark.parametrize(
    ("start", "count"),
    [("earliest", 3), ("latest", 0), ("2", 2), ("2000-01-01T00:00:00Z", 3), ("2000-01-01T00:00:00%2B01:00", 3)],
)
async def test_replay_begins_where_it_is_asked_to(door: Door, start: str, count: int) -> None:
    for i in range(3):
        await door.publish("a", str(i))
    assert len((await door("GET", f"/v1/topics/a/messages?from={start}")).json["messages"]) == count


async def test_replay_takes_a_filter_as_topic(door: Door) -> None:
    for topic in ("a/x", "a/y", "b"):
        await door.publish(topic, b"1")
    for path, count in (("a/+", 2), ("%23", 3), ("a/%2B", 2), ("b", 1), ("nothing", 0)):
        assert len((await door("GET", f"/v1/topics/{path}/messages")).json["messages"]) == count


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("from=yesterday", "bad_position"),
        ("from=2000-01-01T00:00:00+01:00", "bad_position"),
        ("limit=0", "bad_option"),
        ("limit=99999", "bad_option"),
        ("limit=", "bad_option"),
        ("form=latest", "bad_request"),
    ],
)
async def test_replay_refuses_what_it_does_not_understand(door: Door, query: str, code: str) -> None:
    answer = await door("GET", f"/v1/topics/a/messages?{query}")
    assert (answer.status, answer.code) == (400, code)


async def test_a_position_of_another_log_is_answered_honestly(door: Door) -> None:
    await door.publish("a", b"1")
    page = (await door("GET", "/v1/topics/a/messages?from=abcdef.17")).json
    assert page["recovered"] is False


async def test_many_publishers_share_commits(door: Door) -> None:
    receipts = await asyncio.gather(*(door.publish("a", str(i)) for i in range(100)))
    assert sorted(r["offset"] for r in receipts) == list(range(1, 101))
    assert door.engine.stats().commits < 100


async def test_json_is_shown_as_it_was_published(door: Door) -> None:
    body = '{"b":1.10,"a":12345678901234567890123,\n "b":2}'
    await door.publish("a", body, Content_Type="application/vnd.x+json; charset=utf-8")
    text = (await door("GET", "/v1/topics/a/messages")).body.decode()
    assert '"body":{"b":1.10,"a":12345678901234567890123,  "b":2}' in text
    json.loads(text)
