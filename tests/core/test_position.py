"""Positions and starts: what a reader hands back is read as it was meant, anything else is refused."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.core.position import EARLIEST, LATEST, Position, Start

EPOCHS = st.text("0123456789abcdef", min_size=1, max_size=16)
OFFSETS = st.integers(0, 10**18 - 1)


@given(EPOCHS, OFFSETS)
def test_a_position_reads_back(epoch: str, offset: int) -> None:
    position = Position(epoch, offset)
    assert Position.parse(str(position)) == position
    assert Start.parse(str(position)) == Start("after", offset, epoch)


@pytest.mark.parametrize("text", ["", ".", "a.", ".5", "a.b", "a.-1", "a.+1", "a.1.2", "a-b.1", "a.٣", "a." + "9" * 19])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BrokerError) as refusal:
        Position.parse(text)
    assert refusal.value.code is Code.BAD_POSITION


def test_named_starts() -> None:
    assert Start.parse("earliest") == EARLIEST
    assert Start.parse("latest") == LATEST


@given(OFFSETS)
def test_an_offset_may_be_a_number_or_text(offset: int) -> None:
    assert Start.parse(offset) == Start.parse(str(offset)) == Start("offset", offset)


@given(
    st.integers(10**9, 2 * 10**17),
    st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
)
def test_a_time_is_exact_to_the_millisecond_in_any_zone(microseconds: int, zone: timezone) -> None:
    when = datetime(1970, 1, 1, tzinfo=UTC).astimezone(zone) + timedelta(microseconds=microseconds)
    assert Start.parse(when.isoformat()) == Start("time", microseconds // 1000)


@pytest.mark.parametrize(
    "text",
    ["2026-11-23T09:00:00Z", "2026-11-23T10:00:00+01:00", "2026-11-23 09:00:00Z", "2026-11-23T09:00:00.000999+00:00"],
)
def test_spellings_of_one_time(text: str) -> None:
    assert Start.parse(text) == Start("time", 1_795_424_400_000)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-23T09:00:00", "2026-11-23", "2026-13-01T00:00:00Z", "Tomorrow", "next Tuesday", "a-b-c", "", "-1",
        "Earliest", -1, 1.5, True, None, b"1", [], 10**18, 1 << 63, "9" * 19,
    ],
)  # fmt: skip
def test_what_is_no_start_is_refused(value: object) -> None:
    with pytest.raises(BrokerError) as refusal:
        Start.parse(value)  # type: ignore[arg-type]
    assert refusal.value.code is Code.BAD_POSITION
