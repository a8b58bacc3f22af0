"""From what a caller says to the message that PUBLISH carries, checked here so that an error meets its own caller.

Durations are seconds or a timedelta; on the wire they are milliseconds.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from postroom_client.batch import Draft
from postroom_client.body import encode_body
from postroom_client.errors import PostroomError

OPTIONS = frozenset(("content_type", "delay", "due", "headers", "id", "key", "priority", "ttl"))


def make_draft(topic: str, body: Any, options: Mapping[str, Any], max_body: int) -> Draft:
    """A message in wire form. `options` may hold None for what is not given.

    Raises TypeError or ValueError for what cannot be said, PostroomError(message_too_large)."""
    if type(topic) is not str or not topic:
        raise TypeError(f"a topic is text, not {topic!r}")
    packed, kind = (body, None) if type(body) is bytes else encode_body(body)
    if len(packed) > max_body:
        raise PostroomError("message_too_large", f"the body is {len(packed)} bytes, the limit is {max_body}")
    if kind is None and not options:
        return (topic, packed)
    given = _checked(options)
    if kind is not None:
        given.setdefault("content_type", kind)
    return (topic, packed, given) if given else (topic, packed)


def traced(options: Mapping[str, Any], trace: Mapping[str, str] | None) -> Mapping[str, Any]:
    """The options with the headers of a trace, if there is one; those that were given stay."""
    if not trace:
        return options
    return {**options, "headers": {**trace, **(options.get("headers") or {})}}


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        if name in ("id", "key", "content_type"):
            given[name] = _text(name, value)
        elif name == "headers":
            given[name] = {_text("a header's name", k): _text(f"header {k}", v) for k, v in value.items()}
        elif name == "priority":
            given[name] = _priority(value)
        elif name in ("ttl", "delay"):
            given[name] = milliseconds(value, name)
        elif name == "due":
            given[name] = _unix_ms(value)
        else:
            raise TypeError(f"no option {name!r}; there are {', '.join(sorted(OPTIONS))}")
    return given


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{name} must be text, not {value!r}")
    return value


def _priority(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 9:
        raise ValueError(f"priority is a whole number from 0 to 9 (9 goes first), not {value!r}")
    return value


def milliseconds(value: float | timedelta, name: str = "duration") -> int:
    """Seconds or a timedelta as whole milliseconds. Raises TypeError or ValueError naming the option."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} is a number of seconds or a timedelta, not {value!r}")
    if not 0 <= seconds < 1e12:
        raise ValueError(f"{name} is {seconds} seconds; it must be 0 or more")
    return int(seconds * 1000)


def _unix_ms(value: Any) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("due has no time zone; give an aware datetime")
        return int(value.timestamp() * 1000)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"due is an aware datetime or unix seconds, not {value!r}")
    return int(value * 1000)
