"""What a route takes and answers, written once beside it: it reads requests by this, and the reference is made of it.

A parameter checks what a request says and knows the JSON schema that describes just that. Floor 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import UnionType
from typing import Any

from pydantic import BaseModel

from broker.core.duration import format_duration
from broker.core.errors import BrokerError, Code
from broker.core.position import Start
from broker.protocols.http import parameters

JSON = "application/json"


class Tag(StrEnum):
    """The chapters of the reference."""

    PUBLISH = "Publish"
    READ = "Read the log"
    QUEUES = "Queues"
    STREAMS = "Streams"
    SUBSCRIPTIONS = "Subscriptions"
    SCHEDULE = "Schedule"
    KEYS = "Keys and values"
    CONNECTIONS = "Connections"
    MQTT = "MQTT clients"
    ACCESS = "Who may do what"
    BROKER = "The broker"


# Parameters

DURATION: Mapping[str, Any] = {
    "type": "string",
    "pattern": r"^([0-9]{1,12}(\.[0-9]{1,9})?|[0-9]{1,15}(\.[0-9]{1,9})?\s*(ms|s|m|h|d))$",
}
"""Seconds (`30`, `0.5`) or `500ms 30s 5m 2h 7d`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a query, path or head (`place`). `schema` is what a good value looks like, `example` one."""

    name: str
    about: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    place: str = "query"
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class Whole(Parameter):
    """A whole number within bounds, with a default."""

    @classmethod
    def of(cls, name: str, about: str, low: int, high: int, default: int) -> "Whole":
        """The usual way to make one."""
        return cls(name, about, {"type": "integer", "minimum": low, "maximum": high, "default": default})

    def read(self, query: Mapping[str, str]) -> int:
        """Raises BAD_OPTION."""
        text = query.get(self.name)
        if text is None:
            return int(self.schema["default"])
        return parameters.whole(text, self.name, self.schema["minimum"], self.schema["maximum"])


@dataclass(frozen=True, slots=True)
class Choice(Parameter):
    """One of some words, or nothing."""

    @classmethod
    def of(cls, name: str, about: str, *words: str) -> "Choice":
        """The usual way to make one."""
        return cls(name, about, {"type": "string", "enum": list(words)})

    def read(self, query: Mapping[str, str]) -> str | None:
        """Raises BAD_OPTION."""
        text = query.get(self.name)
        if text is not None and text not in self.schema["enum"]:
            words = " or ".join(self.schema["enum"])
            raise BrokerError(Code.BAD_OPTION, f"{self.name} must be {words}, not {text[:100]!r}")
        return text


@dataclass(frozen=True, slots=True)
class Duration(Parameter):
    """A time span; `read` gives milliseconds."""

    schema: Mapping[str, Any] = field(default_factory=lambda: DURATION)
    default: int = 0

    def read(self, query: Mapping[str, str], most: int) -> int:
        """Raises BAD_OPTION, also for more than `most` ms."""
        text = query.get(self.name)
        span = self.default if text is None else parameters.duration(text, self.name)
        if span > most:
            raise BrokerError(Code.BAD_OPTION, f"{self.name} is at most {format_duration(most)}; ask again after it")
        return span


@dataclass(frozen=True, slots=True)
class From(Parameter):
    """Where reading begins."""

    def read(self, query: Mapping[str, str], default: Start) -> Start:
        """Raises BAD_POSITION."""
        text = query.get(self.name)
        return default if text is None else parameters.start(text, self.name)


def path_part(name: str, about: str, example: str, schema: Mapping[str, Any] | None = None) -> Parameter:
    """The variable part of a path."""
    return Parameter(name, about, schema or {"type": "string", "minLength": 1}, "path", required=True, example=example)


def header(name: str, about: str, schema: Mapping[str, Any] | None = None, example: Any = None) -> Parameter:
    """A header that may be sent."""
    return Parameter(name, about, schema or {"type": "string"}, "header", example=example)


def pages(things: str, most: int, default: int) -> tuple[Whole, Parameter]:
    """`limit` and `after` of a list in the order of names."""
    return (
        Whole.of("limit", f"At most so many {things}.", 1, most, default),
        Parameter("after", "Begin behind this name: `next` of the page before.", {"type": "string"}),
    )


# Bodies and answers


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries: a model or schema per media type; None is for bytes of any kind."""

    content: Mapping[str, Any]
    about: str = ""
    required: bool = True
    example: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One good answer. `model` is a pydantic model or None for no JSON; `media` what else it is."""

    about: str
    model: type[BaseModel] | UnionType | None = None
    media: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """The entry of a route in the reference. `answers` by status; problems are every route's and not named here."""

    tag: Tag
    summary: str
    answers: Mapping[int, Answer]
    about: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None

    @property
    def query(self) -> tuple[str, ...]:
        """The names that a query may have."""
        return tuple(p.name for p in self.parameters if p.place == "query")


def no_content(about: str) -> dict[int, Answer]:
    """204."""
    return {204: Answer(about)}
