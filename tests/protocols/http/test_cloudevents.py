"""CloudEvents in their three modes become messages, from which the event can be made again."""

from typing import Any

import pytest

from broker.core.errors import BrokerError, Code
from broker.protocols.http import cloudevents
from tests.protocols.http.conftest import Answer, Door

PATH = "/v1/topics/events/messages"
EVENT = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.created"}
JSON, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


async def messages(door: Door) -> list[Any]:
    found: list[Any] = (await door("GET", PATH)).json["messages"]
    return found


def event_of(message: Any) -> dict[str, str]:
    """The attributes, as a reader makes them from headers."""
    return {name[3:]: text for name, text in message["headers"].items() if name.startswith("ce-")}


def head(**attributes: str) -> dict[str, str]:
    return {f"ce_{name}": text for name, text in (EVENT | attributes).items()}


async def test_binary_mode_keeps_attributes_beside_the_data(door: Door) -> None:
    headers = head(subject="order/7", time="2026-11-25T09:00:00Z", comment="Euro%20%E2%82%AC")
    answer = await door("POST", PATH, '{"total":1.10}', Content_Type="application/json", **headers)
    assert answer.status == 201
    (message,) = await messages(door)
    assert event_of(message) == EVENT | {
        "subject": "order/7",
        "time": "2026-11-25T09:00:00Z",
        "comment": "Euro €",
    }
    assert (message["id"], message["key"], message["content_type"]) == ("/shop 7", "order/7", "application/json")
    assert message["body"] == {"total": 1.1}


@pytest.mark.parametrize(
    ("event", "kind", "body"),
    [
        ({"data": {"a": 1}}, "application/json", {"a": 1}),
        ({"data": "text"}, "application/json", "text"),
        ({"data": None}, None, ""),
        ({}, None, ""),
        ({"data": "<x/>", "datacontenttype": "application/xml"}, "application/xml", "<x/>"),
        ({"data": [1], "datacontenttype": "application/x+json"}, "application/x+json", [1]),
        ({"data_base64": "/wA="}, None, "/wA="),
        ({"data_base64": "aGk=", "datacontenttype": "text/plain"}, "text/plain", "hi"),
    ],
)
async def test_structured_mode_is_taken_apart(door: Door, event: Any, kind: str | None, body: Any) -> None:
    answer = await door("POST", PATH, EVENT | event | {"flag": True, "count": 3}, Content_Type=JSON)
    assert answer.status == 201, answer
    (message,) = await messages(door)
    assert event_of(message) == EVENT | {"flag": "true", "count": "3"}
    assert message["content_type"] == kind
    assert message.get("body", message.get("body_base64")) == body


async def test_a_batch_is_one_commit_and_a_receipt_for_each(door: Door) -> None:
    events = [EVENT | {"id": str(i), "partitionkey": f"p{i}", "data": i} for i in range(3)]
    answer = await door("POST", PATH, events, Content_Type=f"{BATCH}; charset=utf-8")
    assert [r["id"] for r in answer.json["receipts"]] == ["/shop 0", "/shop 1", "/shop 2"]
    assert [(m["key"], m["body"]) for m in await messages(door)] == [("p0", 0), ("p1", 1), ("p2", 2)]
    assert (await door("POST", PATH, [], Content_Type=BATCH)).json == {"receipts": []}


async def test_an_event_that_comes_twice_is_stored_once_in_whatever_mode(door: Door) -> None:
    await door("POST", PATH, EVENT, Content_Type=JSON)
    answers = [
        await door("POST", PATH, b"", **head()),
        await door("POST", PATH, EVENT, Content_Type=JSON),
        await door("POST", PATH, EVENT | {"source": "/other"}, Content_Type=JSON),
    ]
    assert [a.json["duplicate"] for a in answers] == [True, True, False]


async def test_what_the_request_says_beside_the_event_goes_before(door: Door) -> None:
    sent = {"Postroom_Key": "k", "Postroom_Id": "i", "Postroom_Header_X": "y", "Postroom_Priority": "3"}
    await door("POST", PATH, EVENT | {"subject": "s"}, Content_Type=JSON, **sent)
    (message,) = await messages(door)
    assert (message["key"], message["id"], message["priority"]) == ("k", "i", 3)
    assert message["headers"] == {f"ce-{n}": v for n, v in (EVENT | {"subject": "s"}).items()} | {"x": "y"}
    refused = await door("POST", PATH, [EVENT], Content_Type=BATCH, Idempotency_Key="x")
    assert refused.code == "bad_option"


def bad(answer: Answer, mend: str) -> None:
    assert (answer.status, answer.code) == (400, "bad_message")
    assert mend in answer.json["detail"]


@pytest.mark.parametrize(
    ("event", "mend"),
    [
        ({"specversion": "0.3"}, "1.0"),
        ({"id": ""}, "no id"),
        ({"source": None}, "no source"),
        ({"type": 7, "UPPER": "x"}, "UPPER"),
        ({"list": [1]}, "list"),
        ({"big": 1 << 40}, "big"),
        ({"data": 1, "data_base64": ""}, "either"),
        ({"data_base64": "?"}, "base64"),
        ({"datacontenttype": 1}, "datacontenttype"),
    ],
)
async def test_what_is_no_event_is_refused(door: Door, event: Any, mend: str) -> None:
    bad(await door("POST", PATH, EVENT | event, Content_Type=JSON), mend)
    bad(await door("POST", PATH, [EVENT, EVENT | event], Content_Type=BATCH), "event 1")
    assert not await messages(door)


async def test_ugly_events_are_refused(door: Door) -> None:
    for body in (b"{", b"\xff", b"[]", b"7", b'{"a":NaN}', b'{"id":"\\ud800"}', b"[" * 10_000):
        bad(await door("POST", PATH, body, Content_Type=JSON), "")
    bad(await door("POST", PATH, EVENT, Content_Type=BATCH), "array")
    bad(await door("POST", PATH, b"x", Content_Type="application/cloudevents+avro"), "JSON")
    bad(await door("POST", PATH, b"x", ce_specversion="1.0"), "no id")
    bad(await door("POST", PATH, b"x", **head(comment="%C0%A0")), "UTF-8")
    bad(await door("POST", PATH, b"x", **head(datacontenttype="text/plain")), "Content-Type")
    assert not await messages(door)


async def test_headers_of_no_event_are_nobodys_business(door: Door) -> None:
    assert (await door("POST", PATH, b"x", ce_id="7")).status == 201
    assert (await messages(door))[0]["headers"] == {}


def test_quoted_values_of_older_senders_are_read() -> None:
    options = cloudevents.from_headers(EVENT | {"comment": '"say \\"hi\\" %25"'})
    assert options["headers"]["ce-comment"] == 'say "hi" %'


def test_long_names_are_hashed_and_differ() -> None:
    ids = {cloudevents.from_headers(EVENT | {"source": "/s" * 200, "id": str(i)})["id"] for i in range(3)}
    assert len(ids) == 3
    assert all(len(i) < 100 for i in ids)
    assert "key" not in cloudevents.from_headers(EVENT | {"subject": "x" * 300})
    with pytest.raises(BrokerError) as caught:
        cloudevents.from_json("a", b"null")
    assert caught.value.code is Code.BAD_MESSAGE
