"""The shape of messages in JSON."""

import json
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.message import Row, check_meta, pack_meta
from broker.hub import Published
from broker.protocols.http.representation import message_json, moment, receipt_json

TIME = 1_795_424_400_123


def shown(body: bytes, content_type: str | None = None, **options: Any) -> Any:
    meta = check_meta({"content_type": content_type, **options}, TIME)
    row: Row = (7, "a/b", TIME, pack_meta(meta), body)
    text = message_json(row, "abc")
    assert "\n" not in text
    assert "\r" not in text
    return json.loads(text)


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/json", b'{"a": [1, null]}', {"a": [1, None]}),
        ("application/json; charset=utf-8", b" 7 ", 7),
        ("Application/JSON", b'"x"', "x"),
        ("application/cloudevents+json", b"{}", {}),
        ("text/plain", "é\u2028\n".encode(), "é\u2028\n"),
        ("text/csv", b"a,b\r\n", "a,b\r\n"),
        ("application/xml", b"<a/>", "<a/>"),
        ("image/svg+xml", b"<a/>", "<a/>"),
        ("application/x-www-form-urlencoded", b"a=b", "a=b"),
        ("application/x-ndjson", b"{}\n{}", "{}\n{}"),
        ("text/plain", b"", ""),
    ],
)
def test_bodies_that_can_be_read_are_shown(content_type: str, body: bytes, value: object) -> None:
    message = shown(body, content_type)
    assert message["body"] == value
    assert "body_base64" not in message


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, b"text"),
        ("application/octet-stream", b"text"),
        ("application/json", b"{"),
        ("application/json", b""),
        ("application/json", b"NaN"),
        ("application/json", b"[-Infinity]"),
        ("application/json", b'"\xff"'),
        ("application/json", "\ufeff{}".encode()),
        ("application/json", "{}".encode("utf-16")),
        ("application/json", b"[" * 100_000 + b"]" * 100_000),
        ("application/json", b"1" * 5_000),
        ("application/json", b'"a\nb"'),
        ("text/plain", b"\xff"),
        ("text/plain", "\ud800".encode("utf-8", "surrogatepass")),
    ],
)
def test_other_bodies_go_as_base64(content_type: str | None, body: bytes) -> None:
    message = shown(body, content_type)
    assert b64decode(message["body_base64"]) == body
    assert "body" not in message


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_every_json_value_survives(value: object) -> None:
    for indent in (None, 1):
        for ascii_only in (False, True):
            body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
            message = shown(body, "application/json")
            if "body" in message:
                assert message["body"] == value
            else:  # a lone surrogate, written raw, is not UTF-8
                assert b64decode(message["body_base64"]) == body


@given(st.binary(), st.sampled_from([None, "text/plain", "application/json", "x"]))
def test_every_body_can_be_shown(body: bytes, content_type: str | None) -> None:
    shown(body, content_type)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_every_text_survives(text: str) -> None:
    message = shown(text.encode(), "text/plain", id=text, key=text, headers={text: text})
    assert (message["id"], message["key"], message["headers"], message["body"]) == (text, text, {text: text}, text)


def test_members_of_a_message() -> None:
    message = shown(b"1", "application/json", ttl=1000, priority=3)
    assert message == {
        "id": message["id"],
        "offset": 7,
        "position": "abc.7",
        "topic": "a/b",
        "key": None,
        "headers": {},
        "content_type": "application/json",
        "priority": 3,
        "published_at": "2026-11-23T09:00:00.123Z",
        "expires_at": "2026-11-23T09:00:01.123Z",
        "body": 1,
    }


def test_history_and_source_of_a_message_are_shown() -> None:
    meta = pack_meta({"history": [{"at": TIME, "outcome": "retry"}], "source": {"file": "x.csv"}, "topic": "first"})
    message = json.loads(message_json((1, "$dead/q", TIME, meta, b""), "e", attempt=2, receipt="r"))
    assert message["history"] == [{"at": "2026-11-23T09:00:00.123Z", "outcome": "retry"}]
    assert message["source"] == {"file": "x.csv"}
    assert (message["topic"], message["attempt"], message["receipt"]) == ("first", 2, "r")


def test_times() -> None:
    assert moment(0) == "1970-01-01T00:00:00.000Z"
    assert moment(TIME) == "2026-11-23T09:00:00.123Z"
    assert moment(10**15) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    "published",
    [
        Published('an "id"\n', 7, "e.7"),
        Published("é", 7, "e.7", duplicate=True),
        Published("x", None, None, duplicate=True),
        Published("x", None, None, due=TIME),
        Published(None, None, None),
    ],
)
def test_receipts(published: Published) -> None:
    receipt = json.loads(receipt_json(published))
    assert receipt.pop("due", None) == (None if published.due is None else moment(published.due))
    assert receipt == {
        "id": published.id,
        "offset": published.offset,
        "position": published.position,
        "duplicate": published.duplicate,
    }
