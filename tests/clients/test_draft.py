from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from postroom_client.draft import make_draft
from postroom_client.errors import PostroomError


def options_of(body: Any = b"", **options: Any) -> dict[str, Any]:
    draft = make_draft("a", body, options, 100)
    return draft[2] if len(draft) > 2 else {}


def test_a_plain_message_carries_nothing_more() -> None:
    assert make_draft("a/b", b"x", {"key": None, "ttl": None}, 100) == ("a/b", b"x")


def test_options_in_wire_form() -> None:
    options = {"id": "i", "key": "k", "headers": {"h": "v"}, "priority": 9, "ttl": 1.5, "delay": timedelta(minutes=2)}
    assert options_of(**options) == {**options, "ttl": 1500, "delay": 120_000}


def test_due_is_a_moment() -> None:
    assert options_of(due=datetime(2026, 11, 23, 9, tzinfo=UTC)) == {"due": 1795424400000}
    assert options_of(due=1795424400.5) == {"due": 1795424400500}


def test_the_callers_content_type_wins() -> None:
    assert options_of("text", content_type="text/csv") == {"content_type": "text/csv"}
    assert options_of({"a": 1}) == {"content_type": "application/json"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": 7}, "key must be text"),
        ({"headers": {"a": 1}}, "header a must be text"),
        ({"headers": {1: "a"}}, "a header's name must be text"),
        ({"priority": 10}, "0 to 9"),
        ({"priority": True}, "0 to 9"),
        ({"ttl": -1}, "0 or more"),
        ({"ttl": "5m"}, "a number of seconds or a timedelta"),
        ({"delay": float("nan")}, "0 or more"),
        ({"due": datetime(2026, 11, 23, 9)}, "no time zone"),  # noqa: DTZ001
        ({"due": "tomorrow"}, "unix seconds"),
        ({"colour": "red"}, "no option 'colour'; there are content_type"),
    ],
)
def test_wrong_options_name_themselves(options: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        options_of(**options)


@pytest.mark.parametrize("topic", ["", 7, None, b"a"])
def test_a_topic_is_text(topic: Any) -> None:
    with pytest.raises(TypeError, match="a topic is text"):
        make_draft(topic, b"", {}, 100)


def test_a_body_over_the_limit_never_leaves() -> None:
    with pytest.raises(PostroomError, match="101 bytes, the limit is 100") as caught:
        make_draft("a", b"x" * 101, {}, 100)
    assert caught.value.code == "message_too_large"
