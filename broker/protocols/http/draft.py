"""Messages as clients write them in JSON: the members of a message that is read, less those that the broker gives.

Floor 4.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from broker.core.duration import parse_duration
from broker.core.errors import BrokerError, Code
from broker.core.position import Start
from broker.hub import Outgoing
from broker.protocols.http.representation import dumps

_OPTIONS = ("id", "key", "headers", "content_type", "priority", "delay", "due", "ttl")
_MEMBERS = {"topic", "body", "body_base64", *_OPTIONS}
JSON = "application/json"
ROOM = 128 << 10
"""Bytes of text that a message may take beside its body in base64."""


def outgoing(values: Any) -> Outgoing:
    """The message that `values` write. `body` is a JSON value, or text when `content_type` is none of JSON's;
    `body_base64` is any bytes. Raises BAD_MESSAGE, BAD_OPTION; the topic and the options are the hub's to check."""
    if not isinstance(values, Mapping):
        raise BrokerError(Code.BAD_MESSAGE, 'a message is {"topic": …, "body": …}')
    if unknown := set(values) - _MEMBERS:
        raise BrokerError(Code.BAD_OPTION, f"no member {min(unknown)!r}; there are {', '.join(sorted(_MEMBERS))}")
    options = {name: values[name] for name in _OPTIONS if values.get(name) is not None}
    for name in ("delay", "ttl"):
        if name in options:
            options[name] = parse_duration(options[name], name)
    if "due" in options:
        options["due"] = _due(options["due"])
    if ("body" in values) == ("body_base64" in values):
        raise BrokerError(Code.BAD_MESSAGE, "give either body or body_base64")
    if "body_base64" in values:
        return Outgoing(values.get("topic", ""), unpacked(values["body_base64"]), options)
    content_type = options.setdefault("content_type", JSON)
    return Outgoing(values.get("topic", ""), _written(values["body"], content_type), options)


def unpacked(text: Any, name: str = "body_base64") -> bytes:
    """Bytes from base64. Raises BAD_MESSAGE."""
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise BrokerError(Code.BAD_MESSAGE, f"{name} must be text in base64 (RFC 4648 §4)") from None


def _due(text: Any) -> int:
    """Unix milliseconds of an RFC 3339 time."""
    try:
        start = Start.parse(text)
    except BrokerError:
        start = None
    if start is None or start.kind != "time":
        raise BrokerError(Code.BAD_OPTION, f"due: {text!r} is no RFC 3339 time such as 2026-11-25T09:00:00Z")
    return start.offset


def _written(body: Any, content_type: Any) -> bytes:
    if type(content_type) is not str:
        raise BrokerError(Code.BAD_OPTION, "content_type must be text")
    kind = content_type.partition(";")[0].strip().lower()
    is_json = kind == JSON or kind.endswith("+json")
    if not is_json and type(body) is not str:
        raise BrokerError(Code.BAD_MESSAGE, f"the body of a {kind} is text, or goes into body_base64")
    try:
        if not is_json:
            encoded: bytes = body.encode()
            return encoded
        written = to_json(body)
        if b"NaN" in written or b"Infinity" in written:  # in a text, or a number that JSON cannot say
            dumps(body)
        return written
    except (ValueError, RecursionError, PydanticSerializationError):
        detail = "the body holds what JSON in UTF-8 cannot say: NaN, an infinity or half of a surrogate pair"
        raise BrokerError(Code.BAD_MESSAGE, detail) from None
