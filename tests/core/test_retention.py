"""Retention: which policy holds, and what a topic drops; checked against a plain list of messages."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap64

from broker.core.errors import BrokerError, Code
from broker.core.retention import FOR_EVER, Durability, Policies, Policy, Retention, parse_policy, surplus

DAY = 86_400_000
EMPTY = BitMap64()


def test_without_configuration_the_defaults_hold() -> None:
    policies = Policies()
    assert policies.of("orders") == Policy("#", Retention(DAY, 1 << 30), Durability.FSYNC)
    assert policies.of("$dead/mail").retention == FOR_EVER
    assert policies.of("$dead/mail").durability is Durability.FSYNC
    assert policies.of("$reply/abc").durability is Durability.MEMORY


def test_the_first_filter_that_matches_holds() -> None:
    policies = Policies.parse(
        {
            "orders/created": {"count": 5},
            "orders/#": {"age": "7d"},
            "#": {"age": "1h", "bytes": "1MiB"},
            "$dead/#": {"age": "30d"},
        }
    )
    assert policies.of("orders/created").retention == Retention(None, None, 5)
    assert policies.of("orders").retention == Retention(7 * DAY, None)
    assert policies.of("users").retention == Retention(3_600_000, 1 << 20)
    assert policies.of("$dead/mail").retention == Retention(30 * DAY, None)
    assert policies.of("$reply/x").durability is Durability.MEMORY


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({}, Policy("a")),
        ({"durability": "memory"}, Policy("a", durability=Durability.MEMORY)),
        ({"age": "forever"}, Policy("a", FOR_EVER)),
        ({"latest": True}, Policy("a", Retention(None, None, None, True))),
        ({"latest": False}, Policy("a", FOR_EVER)),
        ({"age": 60, "bytes": 5, "count": 7}, Policy("a", Retention(60_000, 5, 7))),
        ({"age": None, "count": 7}, Policy("a", Retention(None, None, 7))),
    ],
)
def test_reading_a_policy(options: dict[str, Any], policy: Policy) -> None:
    assert parse_policy("a", options) == policy


@pytest.mark.parametrize(
    "options",
    [
        {"age": "soon"},
        {"bytes": "much"},
        {"count": 0},
        {"count": True},
        {"latest": "yes"},
        {"durability": "never"},
        {"durability": None},
        {"size": 5},
        {5: 5},
        "24h",
        None,
    ],
)
def test_a_bad_policy_is_refused_naming_its_filter(options: Any) -> None:
    with pytest.raises(BrokerError, match="'a/#'") as refusal:
        Policies.parse({"a/#": options})
    assert refusal.value.code is Code.BAD_OPTION


def test_a_bad_filter_is_refused() -> None:
    with pytest.raises(BrokerError) as refusal:
        Policies.parse({"a#": {}})
    assert refusal.value.code is Code.BAD_FILTER


def test_age_drops_what_is_older_than_the_cut() -> None:
    offsets = BitMap64([3, 5, 8, 13])
    assert surplus(Retention(bytes=None), offsets, before=8) == BitMap64([3, 5])
    assert surplus(Retention(age=None, bytes=None), offsets, before=8) == EMPTY


def test_count_keeps_the_newest() -> None:
    offsets = BitMap64([3, 5, 8, 13])
    kept = {n: offsets - surplus(Retention(None, None, n), offsets) for n in (1, 3, 4, 9)}
    assert kept == {1: BitMap64([13]), 3: BitMap64([5, 8, 13]), 4: offsets, 9: offsets}


def test_bytes_keep_the_newest_pages_and_a_share_of_the_one_at_the_limit() -> None:
    pages = [(BitMap64(range(10)), 1_000), (BitMap64(range(10, 20)), 1_000), (BitMap64(range(20, 30)), 1_000)]
    offsets = BitMap64(range(30))

    def cut(limit: int) -> int:
        chosen = surplus(Retention(None, limit), offsets, pages=pages)
        assert chosen == BitMap64(range(len(chosen)))
        return len(chosen)

    assert [cut(limit) for limit in (0, 99, 100, 1_000, 1_250, 2_000, 2_999, 3_000)] == [30, 30, 29, 20, 18, 10, 1, 0]


def test_an_empty_page_costs_nothing() -> None:
    pages = [(BitMap64([1]), 5), (EMPTY, 0), (EMPTY, 7)]
    assert surplus(Retention(None, 4), BitMap64([1]), pages=pages) == BitMap64([1])
    assert surplus(Retention(None, 5), BitMap64([1]), pages=pages) == EMPTY


def test_latest_drops_what_was_superseded_and_only_then() -> None:
    offsets, old = BitMap64([1, 2, 3]), BitMap64([1, 3, 99])
    assert surplus(Retention(None, None, latest=True), offsets, superseded=old) == BitMap64([1, 3])
    assert surplus(FOR_EVER, offsets, superseded=old) == EMPTY


def test_what_a_queue_still_needs_is_never_surplus() -> None:
    offsets = BitMap64(range(10))
    chosen = surplus(
        Retention(1, 0, 1, latest=True),
        offsets,
        before=10,
        pages=[(offsets, 10)],
        pinned=BitMap64([0, 9]),
        superseded=offsets,
    )
    assert chosen == BitMap64(range(1, 9))


@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans()), max_size=60),
    before=st.integers(0, 200),
    limit=st.one_of(st.none(), st.integers(0, 300)),
    count=st.one_of(st.none(), st.integers(1, 40)),
    split=st.integers(1, 7),
)
def test_it_is_what_a_plain_list_would_drop(
    sizes: list[tuple[int, int, bool]], before: int, limit: int | None, count: int | None, split: int
) -> None:
    """With pages whose messages are all of one size the choice by bytes is exact."""
    offsets, messages, pages = BitMap64(), [], []
    place = 0
    for gap, size, pinned in sizes:
        page = BitMap64()
        for _ in range(split):
            place += 1 + gap
            page.add(place)
            messages.append((place, size, pinned))
        offsets |= page
        pages.append((page, size * split))
    expected, total = set(), 0
    for rank, (offset, size, pinned) in enumerate(reversed(messages)):
        total += size
        over = (limit is not None and total > limit) or (count is not None and rank >= count) or offset < before
        if over and not pinned:
            expected.add(offset)
    chosen = surplus(
        Retention(5, limit, count),
        offsets,
        before=before,
        pages=pages,
        pinned=BitMap64([offset for offset, _, pinned in messages if pinned]),
    )
    assert set(chosen) == expected
