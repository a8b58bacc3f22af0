"""Durations read and written."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.duration import format_duration, parse_duration
from broker.core.errors import BrokerError, Code


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("1.5s", 1_500),
        (" 5m ", 300_000),
        ("2 h", 7_200_000),
        ("7d", 604_800_000),
        ("0s", 0),
        (30, 30_000),
        (0.25, 250),
        (0, 0),
    ],
)
def test_reading(text: object, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "value",
    [
        "", "s", "5", "-5s", "5w", "5S", "1e3s", "٣s", None, True, -1, float("nan"), float("inf"), 1e12, [], b"5s",
        "9" * 400 + "d", "1000000001d", 10**30,
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_by_name(value: object) -> None:
    with pytest.raises(BrokerError, match=r"^lease: ") as refusal:
        parse_duration(value, "lease")
    assert refusal.value.code is Code.BAD_OPTION


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "0ms"), (1, "1ms"), (1_500, "1500ms"), (90_000, "90s"), (120_000, "2m"), (172_800_000, "2d")]
)
def test_writing(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@given(st.integers(0, 10**14))
def test_what_is_written_reads_back(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(BrokerError):
        assert 0 <= parse_duration(text) < 1 << 53
