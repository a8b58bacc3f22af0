"""Settings with a unit, as options models read them."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from broker.core.setting import Duration, Size


class Options(BaseModel):
    time: Duration = 1
    size: Size = 1


@pytest.mark.parametrize(
    ("given", "ms"), [("500ms", 500), ("2m", 120_000), (5, 5_000), (0.5, 500), ("5", 5_000), (" 5 ", 5_000), (0, 0)]
)
def test_a_duration_is_stored_in_milliseconds(given: Any, ms: int) -> None:
    assert Options.model_validate({"time": given}).time == ms


@pytest.mark.parametrize(("given", "count"), [("16KiB", 16_384), ("1MB", 1_000_000), (7, 7), ("7", 7)])
def test_a_size_is_stored_in_bytes(given: Any, count: int) -> None:
    assert Options.model_validate({"size": given}).size == count


@pytest.mark.parametrize("key", ["time", "size"])
@pytest.mark.parametrize("given", ["soon", "-5", -5, True, [], "5 parsecs", "٥"])
def test_what_is_neither_is_told_with_the_mend(key: str, given: Any) -> None:
    with pytest.raises(ValidationError, match=r"is no (duration|size); write"):
        Options.model_validate({key: given})
