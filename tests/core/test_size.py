"""Sizes read."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.core.size import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("512KiB", 524_288),
        ("64MB", 64_000_000),
        ("1 GiB", 1 << 30),
        (" 1.5GiB ", 3 << 29),
        ("2TiB", 2 << 40),
        ("3GB", 3 * 10**9),
        (17, 17),
    ],
)
def test_reading(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value", ["", "1", "1K", "1kb", "-1B", "GiB", "1PB", "999999999999TiB", None, True, 1.5, -1, 1 << 63]
)
def test_what_is_no_size_is_refused_by_name(value: object) -> None:
    with pytest.raises(BrokerError, match=r"^bytes: ") as refusal:
        parse_size(value, "bytes")
    assert refusal.value.code is Code.BAD_OPTION


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(BrokerError):
        assert 0 <= parse_size(text) < 1 << 63
