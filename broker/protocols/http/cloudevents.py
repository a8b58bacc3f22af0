"""CloudEvents 1.0 (HTTP binding, JSON format): events of other systems as messages, and nothing of them lost.

An event's data is the message's body and its `datacontenttype` the content type; every other attribute becomes a header
`ce-NAME` of the message, so that a reader has the event in binary mode. `source` and `id` together are unique and name
the message, so that an event that comes twice is stored once. Pure. Floor 4.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote_to_bytes

from broker.core.errors import BrokerError, Code
from broker.core.message import MAX_ID_BYTES
from broker.hub import Outgoing
from broker.protocols.http.representation import dumps, value_of

STRUCTURED, BATCH = "application/cloudevents", "application/cloudevents-batch"
PREFIX = "ce-"
_REQUIRED = ("id", "source", "specversion", "type")
_NAME = re.compile(r"[a-z0-9]{1,64}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def from_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """The options of a message whose event is told by `ce-` headers (binary mode; names without the prefix, values as
    they were sent). Raises BAD_MESSAGE."""
    attributes = {name: _decoded(name, value) for name, value in headers.items()}
    if "datacontenttype" in attributes:
        raise BrokerError(Code.BAD_MESSAGE, "ce-datacontenttype has no place in binary mode: send Content-Type")
    return _options(attributes)


def from_json(topic: str, text: bytes) -> Outgoing:
    """The message of one event in the JSON format (structured mode). Raises BAD_MESSAGE."""
    return _message(topic, _read(text))


def from_json_batch(topic: str, text: bytes) -> list[Outgoing]:
    """The messages of a JSON batch. Raises BAD_MESSAGE naming the event by its place, from 0."""
    events = _read(text)
    if not isinstance(events, list):
        raise BrokerError(Code.BAD_MESSAGE, "a batch of events is a JSON array")
    messages: list[Outgoing] = []
    try:
        messages.extend(_message(topic, event) for event in events)
    except BrokerError as error:
        raise BrokerError(error.code, f"event {len(messages)}: {error.detail}") from None
    return messages


def _read(text: bytes) -> Any:
    try:
        return value_of(text)
    except (ValueError, RecursionError) as error:
        raise BrokerError(Code.BAD_MESSAGE, f"the event is not JSON: {error}") from None


def _message(topic: str, event: Any) -> Outgoing:
    if not isinstance(event, Mapping):
        raise BrokerError(Code.BAD_MESSAGE, 'an event is {"specversion": "1.0", "id": …, "source": …, "type": …}')
    values = {name: value for name, value in event.items() if value is not None}
    content_type = values.pop("datacontenttype", None)
    if content_type is not None and (type(content_type) is not str or not content_type):
        raise BrokerError(Code.BAD_MESSAGE, "datacontenttype must be text")
    body, content_type = _data(values, content_type)
    options = _options({name: _text(name, value) for name, value in values.items()})
    if content_type is not None:
        options["content_type"] = content_type
    return Outgoing(topic, body, options)


def _data(values: dict[str, Any], content_type: str | None) -> tuple[bytes, str | None]:
    """Body and content type; takes the data out of `values` (JSON format §3.1)."""
    if "data" in values and "data_base64" in values:
        raise BrokerError(Code.BAD_MESSAGE, "give either data or data_base64")
    if "data_base64" in values:
        try:
            return b64decode(values.pop("data_base64"), validate=True), content_type
        except (binascii.Error, ValueError, TypeError):
            raise BrokerError(Code.BAD_MESSAGE, "data_base64 must be text in base64") from None
    if "data" not in values:
        return b"", content_type
    data = values.pop("data")
    kind = (content_type or "application/json").partition(";")[0].strip().lower()
    if type(data) is str and not (kind.endswith(("/json", "+json"))):
        return data.encode(), content_type
    return dumps(data).encode(), content_type or "application/json"


def _text(name: str, value: Any) -> str:
    """An attribute's canonical string (CloudEvents §3.1)."""
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int and -(1 << 31) <= value < 1 << 31:
        return str(value)
    if type(value) is not str:
        raise BrokerError(Code.BAD_MESSAGE, f"attribute {name[:64]!r} must be a text, a bool or a 32-bit integer")
    return value


def _decoded(name: str, value: str) -> str:
    """A header's value as the attribute it stands for (HTTP binding §3.1.3.2)."""
    quoted = _QUOTED.fullmatch(value)
    if quoted:
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    if "%" not in value:
        return value
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise BrokerError(Code.BAD_MESSAGE, f"ce-{name} does not decode to UTF-8") from None


def _options(attributes: Mapping[str, str]) -> dict[str, Any]:
    for name in _REQUIRED:
        if not attributes.get(name):
            raise BrokerError(Code.BAD_MESSAGE, f"the event has no {name}")
    if attributes["specversion"] != "1.0":
        raise BrokerError(Code.BAD_MESSAGE, f"specversion {attributes['specversion'][:20]!r} is not known; 1.0 is")
    for name in attributes:
        if not _NAME.fullmatch(name):
            raise BrokerError(Code.BAD_MESSAGE, f"{name[:64]!r} is no attribute: lower-case letters and digits")
    options: dict[str, Any] = {
        "id": _id(attributes["source"], attributes["id"]),
        "headers": {f"{PREFIX}{name}": value for name, value in attributes.items()},
    }
    key = attributes.get("partitionkey") or attributes.get("subject")
    if key and ("partitionkey" in attributes or len(key.encode()) <= MAX_ID_BYTES):
        options["key"] = key
    return options


def _id(source: str, id_: str) -> str:
    """Unique for the two together: no URI holds a space. Longer ones are hashed."""
    name = f"{source} {id_}"
    return name if len(name.encode()) <= MAX_ID_BYTES else f"ce-{blake2b(name.encode(), digest_size=24).hexdigest()}"
