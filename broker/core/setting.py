"""The types of settings that people write with a unit, for the options models of every module. Floor 0."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator

from broker.core.duration import parse_duration
from broker.core.errors import BrokerError
from broker.core.size import parse_size


def _parsed(parse: Callable[[object], int]) -> Callable[[Any], int]:
    """pydantic tells a ValueError as a problem of the key that was being read."""

    def validate(value: Any) -> int:
        try:
            return parse(float(value) if isinstance(value, str) and _is_number(value) else value)
        except BrokerError as error:
            raise ValueError(error.detail.partition(": ")[2] or error.detail) from None

    return validate


def _is_number(text: str) -> bool:
    """A bare number that came as text: from the environment."""
    return text.strip().isascii() and text.strip().isdecimal()


def _parse_size(value: object) -> int:
    return parse_size(int(value) if isinstance(value, float) and value.is_integer() else value)


Duration = Annotated[int, BeforeValidator(_parsed(parse_duration))]
"""Milliseconds; written `500ms`, `30s`, `5m`, `2h`, `7d` or as a number of seconds."""

Size = Annotated[int, BeforeValidator(_parsed(_parse_size))]
"""Bytes; written `512KiB`, `64MB`, `1GiB` or as a number of bytes."""
