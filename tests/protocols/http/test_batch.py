"""Many messages with one request."""

import json
from typing import Any

import pytest

from broker.limits import Limits
from tests.protocols.http.conftest import Answer, Door, DoorFactory

NDJSON = "application/x-ndjson"


async def send(door: Door, items: Any, **headers: str) -> Answer:
    return await door("POST", "/v1/messages", items, Content_Type="application/json", **headers)


async def messages(door: Door) -> list[Any]:
    found: list[Any] = (await door("GET", "/v1/topics/%23/messages")).json["messages"]
    return found


async def test_each_item_gets_a_receipt_and_all_share_a_commit(door: Door) -> None:
    before = door.engine.stats().commits
    answer = await send(door, [{"topic": "a/1", "body": {"n": 1}}, {"topic": "a/2", "body": "two"}])
    assert answer.status == 201
    receipts = answer.json["receipts"]
    assert [r["offset"] for r in receipts] == [1, 2]
    assert door.engine.stats().commits == before + 1
    await door.restart()
    found = await messages(door)
    assert [(m["id"], m["position"], m["topic"], m["body"]) for m in found] == [
        (receipts[0]["id"], receipts[0]["position"], "a/1", {"n": 1}),
        (receipts[1]["id"], receipts[1]["position"], "a/2", "two"),
    ]


async def test_every_member_is_kept(door: Door) -> None:
    item = {
        "topic": "a",
        "body": "héllo",
        "content_type": "text/plain",
        "id": "the-id",
        "key": "k",
        "headers": {"x": "y"},
        "priority": 9,
        "ttl": "5m",
    }
    raw = {"topic": "a", "body_base64": "/wA="}
    assert (await send(door, [item, raw])).status == 201
    first, second = await messages(door)
    assert {name: first[name] for name in item if name != "ttl"} == {k: v for k, v in item.items() if k != "ttl"}
    assert first["expires_at"] > first["published_at"]
    assert (second["body_base64"], second["content_type"]) == ("/wA=", None)


async def test_an_item_can_wait_for_a_span_or_a_moment(door: Door) -> None:
    moment = "2099-01-02T03:04:05.000Z"
    items = [
        {"topic": "a", "body": 1, "due": moment},
        {"topic": "a", "body": 2, "delay": 3600},
        {"topic": "a", "body": 3},
    ]
    receipts = (await send(door, items)).json["receipts"]
    assert receipts[0]["due"] == moment
    assert [r["offset"] for r in receipts] == [None, None, 1]
    assert len((await door("GET", "/v1/scheduled")).json["scheduled"]) == 2


async def test_lines_are_items(door: Door) -> None:
    lines = b'{"topic":"a","body":1}\r\n\n{"topic":"b","body":{"x":2}}\n'
    answer = await door("POST", "/v1/messages", lines, Content_Type=NDJSON)
    assert (answer.status, len(answer.json["receipts"])) == (201, 2)
    assert [m["body"] for m in await messages(door)] == [1, {"x": 2}]


async def test_a_known_id_is_told_in_its_place(door: Door) -> None:
    await send(door, [{"topic": "a", "body": 1, "id": "x"}])
    receipts = (await send(door, [{"topic": "a", "body": 0}, {"topic": "a", "body": 1, "id": "x"}])).json["receipts"]
    assert [(r["offset"], r["duplicate"]) for r in receipts] == [(2, False), (1, True)]


async def test_a_request_with_a_key_can_be_sent_again(door: Door) -> None:
    items = [{"topic": "a", "body": 1}, {"topic": "a", "body": 2, "id": "own"}]
    first = (await send(door, items, Idempotency_Key='"abc"')).json["receipts"]
    again = (await send(door, items, Idempotency_Key='"abc"')).json["receipts"]
    assert [r["id"] for r in first] == ["abc/0", "own"]
    assert [r["offset"] for r in again] == [r["offset"] for r in first]
    assert all(r["duplicate"] for r in again)
    assert len(await messages(door)) == 2


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([], "1 to"),
        ({}, "list"),
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1], "0"),
        ([{"body": 1}], "0.topic"),
        ([{"topic": ""}], "0.topic"),
        ([{"topic": "a", "body": 1}, {"topic": "a", "bodi": 1}], "1.bodi"),
        ([{"topic": "a"}], "item 0"),
        ([{"topic": "a", "body": 1, "body_base64": ""}], "item 0"),
        ([{"topic": "a", "body": 1}, {"topic": "a", "body_base64": "?"}], "item 1"),
        ([{"topic": "a", "body": 1, "content_type": "text/plain"}], "item 0"),
        ([{"topic": "a", "body": 1, "priority": 10}], "0.priority"),
        ([{"topic": "a", "body": 1, "priority": "1"}], "0.priority"),
        ([{"topic": "a", "body": 1, "headers": {"x": 1}}], "0.headers.x"),
        ([{"topic": "a", "body": 1, "ttl": "soon"}], "item 0"),
        ([{"topic": "a", "body": 1, "due": "tomorrow"}], "item 0"),
        ([{"topic": "a", "body": 1, "due": "2099-01-01T00:00:00Z", "delay": 1}], "either"),
        ([{"topic": "a", "body": 1}, {"topic": "a/+", "body": 1}], "a/+"),
        ('[{"topic":"a","body":NaN}]', "item 0"),
        ('[{"topic":"a","body":1e999}]', "item 0"),
        ('[{"topic":"a","body":"\\ud800"}]', "not JSON"),
    ],
)
async def test_one_bad_item_and_nothing_is_published(door: Door, body: Any, place: str) -> None:
    answer = await send(door, body)
    assert answer.status == 400
    assert answer.code
    assert place in answer.json["detail"]
    assert not door.engine.topics()


async def test_a_bad_line_is_named(door: Door) -> None:
    for lines in (
        b'{"topic":"a","body":1}\n{"topic":',
        b'{"topic":"a","body":1}\n{"topic":"a","body":1},{"topic":"a"}',
    ):
        answer = await door("POST", "/v1/messages", lines, Content_Type=NDJSON)
        assert (answer.status, answer.code) == (400, "bad_request")
        assert "line 2" in answer.json["detail"]
    assert not door.engine.topics()


async def test_a_text_that_says_nan_is_a_text(door: Door) -> None:
    await send(door, [{"topic": "a", "body": "NaN and Infinity"}])
    assert (await messages(door))[0]["body"] == "NaN and Infinity"


async def test_other_types_are_refused(door: Door) -> None:
    answer = await door("POST", "/v1/messages", "a,b", Content_Type="text/csv")
    assert (answer.status, answer.code) == (400, "bad_request")


async def test_batches_are_bounded(open_door: DoorFactory) -> None:
    door = await open_door(Limits(max_batch=3, max_frame=1 << 16, max_body=1000))
    item = {"topic": "a", "body": "x"}
    assert (await send(door, [item] * 3)).status == 201
    assert (await send(door, [item] * 4)).code == "bad_request"
    assert (await send(door, [item | {"body": "x" * 2000}])).code == "message_too_large"
    assert (await send(door, " " * 70_000 + json.dumps([item]))).code == "message_too_large"
    assert len(await messages(door)) == 3


async def test_a_full_queue_refuses_the_whole_batch(door: Door) -> None:
    await door.queue("q", ["a"], max_messages=1)
    answer = await send(door, [{"topic": "a", "body": 1}, {"topic": "a", "body": 2}, {"topic": "b", "body": 3}])
    assert (answer.status, answer.code) == (429, "queue_full")
    assert not await messages(door)


@pytest.mark.parametrize("name", ["Postroom-Id", "Postroom-Key", "Postroom-Delay", "Postroom-Header-a"])
async def test_headers_that_describe_one_message_are_refused(door: Door, name: str) -> None:
    answer = await send(door, [{"topic": "a", "body": 1}], **{name.replace("-", "_"): "x"})
    assert answer.status == 400
    assert name in answer.json["detail"]
    assert await messages(door) == []
