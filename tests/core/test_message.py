"""Messages: what a publisher may say about one, how it is packed, and the id that a place in the log gives."""

import uuid
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.core.message import (
    EXPIRES,
    KEYED,
    MAX_HEADERS,
    MAX_ID_BYTES,
    MAX_META_BYTES,
    NAMED,
    PRIORITY,
    Message,
    check_meta,
    made_id,
    pack_meta,
    unpack_meta,
)

NOW = 1_795_424_400_000
TEXTS = st.text(min_size=1, max_size=20)
OPTIONS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "id": TEXTS,
        "key": TEXTS,
        "content_type": TEXTS,
        "headers": st.dictionaries(TEXTS, st.text(max_size=20), max_size=4),
        "priority": st.integers(0, 9),
        "ttl": st.integers(1, 10**12),
        "delay": st.integers(0, 10**9),
    },
)


@given(OPTIONS)
def test_options_survive_packing_and_the_flags_tell_the_truth(options: dict[str, Any]) -> None:
    meta = check_meta(options, NOW)
    packed = pack_meta(meta)
    assert unpack_meta(packed) == meta
    if packed is None:
        assert not meta
        return
    assert bool(packed[0] & KEYED) == ("key" in options)
    assert bool(packed[0] & PRIORITY) == bool(options.get("priority"))
    assert bool(packed[0] & EXPIRES) == ("ttl" in options)
    assert bool(packed[0] & NAMED) == ("id" in options)
    assert meta.get("expires_at") == (NOW + options["ttl"] if "ttl" in options else None)


def test_a_plain_message_costs_nothing() -> None:
    assert pack_meta(check_meta({}, NOW)) is None
    assert pack_meta(check_meta({"priority": 0, "headers": {}, "key": None, "delay": 5}, NOW)) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", ""),
        ("id", 5),
        ("id", "x" * (MAX_ID_BYTES + 1)),
        ("key", "é" * MAX_ID_BYTES),
        ("key", b"bytes"),
        ("key", "\ud800"),
        ("content_type", ["text/plain"]),
        ("headers", [("a", "b")]),
        ("headers", {"a": 1}),
        ("headers", {1: "a"}),
        ("headers", {"": "a"}),
        ("headers", {"a": "\udc00"}),
        ("headers", {"\udc00": "a"}),
        ("headers", {str(i): "" for i in range(MAX_HEADERS + 1)}),
        ("priority", 10),
        ("priority", -1),
        ("priority", True),
        ("priority", "5"),
        ("ttl", 0),
        ("ttl", 1.5),
        ("ttl", True),
        ("ttl", 1 << 62),
        ("colour", "red"),
        (7, "seven"),
    ],
)
def test_a_bad_option_is_refused_by_name(name: Any, value: object) -> None:
    with pytest.raises(BrokerError) as refusal:
        check_meta({name: value}, NOW)
    assert refusal.value.code is Code.BAD_OPTION
    assert str(name).rstrip("s") in refusal.value.detail


def test_the_largest_fields_fit() -> None:
    options = {"id": "x" * MAX_ID_BYTES, "headers": {str(i): "v" * 900 for i in range(MAX_HEADERS)}, "ttl": 10**14}
    assert unpack_meta(pack_meta(check_meta(options, NOW)))["id"] == options["id"]


def test_too_much_meta_is_refused() -> None:
    meta = check_meta({"headers": {"a": "x" * (MAX_META_BYTES - 1)}}, NOW)
    with pytest.raises(BrokerError, match=str(MAX_META_BYTES)) as refusal:
        pack_meta(meta)
    assert refusal.value.code is Code.BAD_MESSAGE


@given(st.text("0123456789abcdef", min_size=1), st.integers(0, (1 << 52) - 1), st.integers(0, (1 << 48) - 1))
def test_a_made_id_is_a_uuid7_of_its_place(epoch: str, offset: int, at: int) -> None:
    text = made_id(epoch, offset, at)
    value = uuid.UUID(text)
    assert str(value) == text
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert value.int >> 80 == at
    low74 = (value.int >> 64 & 0xFFF) << 62 | value.int & ((1 << 62) - 1)
    assert low74 >> 22 == offset


def test_made_ids_of_one_millisecond_sort_by_offset() -> None:
    ids = [made_id("e", offset, NOW) for offset in (1, 2, 1_000, 1 << 30, 1 << 51)]
    assert ids == sorted(ids)


def test_another_epoch_makes_another_id() -> None:
    assert made_id("a1", 5, NOW) != made_id("a2", 5, NOW)


def test_a_plain_row_is_a_message_with_defaults() -> None:
    message = Message.of((7, "orders", NOW, None, b"body"), "e1")
    assert message == Message(made_id("e1", 7, NOW), 7, "e1.7", "orders", NOW, b"body")


def test_a_full_row_is_a_message_with_all_it_was_given() -> None:
    history = [{"at": NOW, "error": "boom"}]
    packed = pack_meta(
        {
            "id": "i",
            "key": "k",
            "headers": {"a": "b"},
            "content_type": "text/plain",
            "priority": 3,
            "expires_at": NOW + 5,
            "topic": "orders",
            "history": history,
            "source": {"offset": 3},
        }
    )
    message = Message.of((7, "$dead/q", NOW, packed, b""), "e1")
    assert message == Message(
        "i", 7, "e1.7", "orders", NOW, b"", "k", {"a": "b"}, "text/plain", 3, NOW + 5, history, {"offset": 3}
    )


def test_meta_is_one_msgpack_map_behind_the_flags() -> None:
    packed = pack_meta({"key": "k", "priority": 9})
    assert packed is not None
    assert packed[0] == KEYED | PRIORITY
    assert msgpack.unpackb(packed[1:]) == {"key": "k", "priority": 9}
