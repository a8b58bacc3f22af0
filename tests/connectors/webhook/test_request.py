from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.connectors.webhook.request import Request, webhook_id
from broker.connectors.webhook.signing import verify
from broker.core.message import Message

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def message(**fields: object) -> Message:
    values = {"id": "m1", "offset": 7, "position": "e.7", "topic": "a/b", "published_at": 5, "body": b"x", **fields}
    return Message(**values)  # type: ignore[arg-type]


def test_headers_tell_the_message_and_the_attempt() -> None:
    given_ = message(key="k", headers={"file.row": "3"}, content_type="application/json; charset=utf-8", priority=4)
    headers = Request(given_, "billing", 2).headers({"X-Api": "1"}, [b"s" * 32], 1_800_000_000.9)
    assert headers["webhook-id"] == "m1"
    assert headers["webhook-timestamp"] == "1800000000"
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["X-Api"] == "1"
    assert headers["Postroom-Attempt"] == "2"
    assert headers["Postroom-Key"] == "k"
    assert headers["Postroom-Priority"] == "4"
    assert headers["Postroom-Topic"] == "a/b"
    assert headers["Postroom-Subscription"] == "billing"
    assert headers["Postroom-Header-file.row"] == "3"
    verify([b"s" * 32], "m1", "1800000000", headers["webhook-signature"], b"x", 1_800_000_000)


@given(TEXT, TEXT, st.dictionaries(TEXT.filter(bool), TEXT), TEXT)
def test_no_text_can_break_out_of_its_header_and_all_comes_back(
    topic: str, key: str, more: dict[str, str], content_type: str
) -> None:
    sent = message(topic=topic, key=key, headers=more, content_type=content_type)
    headers = Request(sent, "s", 1).headers({}, [b"s" * 32], 0)
    assert all(c.isascii() and c.isprintable() for text in headers.values() for c in text)
    assert all(c.isascii() and (c.isalnum() or c in "!#$%&'*+-.^_`|~") for name in headers for c in name)
    assert unquote(headers["Postroom-Topic"]) == topic
    assert unquote(headers["Postroom-Key"]) == key
    prefix = "Postroom-Header-"
    back = {unquote(n.removeprefix(prefix)): unquote(v) for n, v in headers.items() if n.startswith(prefix)}
    assert back == more


@pytest.mark.parametrize(("given_", "sent"), [("a-b_c", "a-b_c"), ("order.1", "order%2E1"), ("é %", "%C3%A9%20%25")])
def test_webhook_ids_hold_no_dot(given_: str, sent: str) -> None:
    assert webhook_id(given_) == sent
    assert unquote(sent) == given_


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_trace_goes_on_under_the_names_of_the_standard() -> None:
    sent = Request(message(headers={"traceparent": PARENT, "tracestate": "a=1"}), "s", 1).headers({}, [b"s" * 32], 0)
    assert (sent["traceparent"], sent["tracestate"]) == (PARENT, "a=1")
    assert sent["Postroom-Header-traceparent"] == PARENT
    for more in ({"traceparent": "x\r\ny: z"}, {"tracestate": "a=1"}, {}):
        headers = Request(message(headers=more), "s", 1).headers({}, [b"s" * 32], 0)
        assert not {"traceparent", "tracestate"} & headers.keys()
