"""What MQTT says about a message, as the log keeps it, and back: an MQTT client hears exactly what another one sent,
and so does a broker at the other end of a bridge.

Content type, expiry and user properties have their fields in every message's meta, so that all doors see them. What
only MQTT knows is in its field `mqtt`:

    qos       0 or 1; absent: 2, as for messages of other doors, which were all committed before they were answered
    retain    the flag, as published
    response, correlation, format     response topic, correlation data, payload format
    user      the user properties in order, where the message's own fields would not give them back as they were (a
              name that repeats, or is empty)
    type      a content type that is no content type to other doors
    from      the client that sent it, kept only while that client has a subscription with No Local
    bridge    the bridge that brought it, which does not take it back

Key, id and priority, which only other doors have fields for, are the user properties `postroom-key`, `postroom-id` and
`postroom-priority`, both ways. Dead letters say the topic they come from and each of their failures by others. Floor 0.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypedDict, cast

from broker.core.message import MAX_ID_BYTES, Meta, Row, pack_meta, packed_meta, unpack_meta, utf8_size

ID, KEY, PRIORITY = (f"postroom-{name}" for name in ("id", "key", "priority"))
VIA: Final = "postroom-via"
"""A header with the epochs of the logs that a message has been in, `,` between them: bridges tell by it what has been
somewhere already."""
ORIGIN: Final = "postroom-origin"
"""A user property of CONNECT and CONNACK: the epoch of the log of the broker that says it. Who connects with it is a
bridge, and hears the id of every message."""


class MessageProperties(TypedDict, total=False):
    """The properties of PUBLISH (§3.3.2.3) that belong to the message and not to its transport."""

    payload_format: int
    message_expiry: int
    content_type: str
    response_topic: str
    correlation_data: bytes
    user: list[tuple[str, str]]


_EMPTY: Mapping[str, Any] = MappingProxyType({})
_NONE: Final = cast(MessageProperties, _EMPTY)
_FIELDS: Final = (("response", "response_topic"), ("correlation", "correlation_data"), ("format", "payload_format"))
QOS_0, QOS_1 = packed_meta({"mqtt": {"qos": 0}}), packed_meta({"mqtt": {"qos": 1}})
PLAIN: Final[dict[bytes | None, int]] = {QOS_0: 0, QOS_1: 1, None: 2}
"""Meta of messages that have nothing but their QoS; `BY_QOS` is the inverse."""
BY_QOS: Final = (QOS_0, QOS_1, None)


def packed(
    qos: int,
    retain: bool,
    properties: MessageProperties,
    now: int,
    sender: str | None = None,
    bridge: str | None = None,
) -> bytes | None:
    """The meta of a message that is published now (unix ms). Raises BAD_MESSAGE when it is too large."""
    mqtt: dict[str, Any] = {}
    if qos < 2:
        mqtt["qos"] = qos
    if retain:
        mqtt["retain"] = True
    if sender is not None:
        mqtt["from"] = sender
    if bridge is not None:
        mqtt["bridge"] = bridge
    meta: Meta = {}
    for short, name in _FIELDS:
        if name in properties:
            mqtt[short] = properties[name]  # type: ignore[literal-required]
    if "content_type" in properties:
        content_type = properties["content_type"]
        if _is_short(content_type):
            meta["content_type"] = content_type
        else:
            mqtt["type"] = content_type
    if "message_expiry" in properties:
        meta["expires_at"] = now + 1_000 * properties["message_expiry"]
    if user := properties.get("user"):
        headers = {name: value for name, value in user if name and not _take_field(meta, name, value)}
        if headers:
            meta["headers"] = headers
        if _user(meta) != user:
            mqtt["user"] = user
    if mqtt:
        meta["mqtt"] = mqtt
    return pack_meta(meta)


def _take_field(meta: Meta, name: str, value: str) -> bool:
    """Is this user property a field of other doors? The first one of a name is; what no field can hold is a header."""
    if name == ID and "id" not in meta and _is_short(value):
        meta["id"] = value
    elif name == KEY and "key" not in meta and _is_short(value):
        meta["key"] = value
    elif name == PRIORITY and "priority" not in meta and value in tuple("123456789"):
        meta["priority"] = int(value)
    else:
        return False
    return True


def _is_short(text: str) -> bool:
    return bool(text) and utf8_size(text) <= MAX_ID_BYTES


REDRIVEN = "$redrive/"


def first_topic(row: Row) -> str:
    """The topic that a message was published to: one that was redriven has come back to its queue by another."""
    topic = row[1]
    return unpack_meta(row[3]).get("topic", topic) if topic.startswith(REDRIVEN) else topic


class Heard:
    """A message as MQTT hears it. `properties` lack the expiry, which counts down: see `left`."""

    __slots__ = ("bridge", "expires_at", "properties", "qos", "retain", "sender")

    def __init__(self, row: Row) -> None:
        meta = unpack_meta(row[3])
        mqtt: dict[str, Any] = meta.get("mqtt", {})
        self.qos: int = mqtt.get("qos", 2)
        self.retain: bool = mqtt.get("retain", False)
        self.sender: str | None = mqtt.get("from")
        self.bridge: str | None = mqtt.get("bridge")
        self.expires_at = meta.get("expires_at")
        found: dict[str, Any] = {name: mqtt[short] for short, name in _FIELDS if short in mqtt}
        content_type = meta.get("content_type", mqtt.get("type"))
        if content_type is not None:
            found["content_type"] = _speakable(content_type)
        if user := [*(mqtt.get("user") or _user(meta)), *_of_failures(meta, row[1])]:
            found["user"] = [(_speakable(name), _speakable(value)) for name, value in user]
        self.properties = cast(MessageProperties, found) or _NONE

    def left(self, now: int) -> int | None:
        """Seconds until it expires, rounded up, 0 or less when it has; None when it never does. `now` in unix ms."""
        return None if self.expires_at is None else -((now - self.expires_at) // 1_000)


def _user(meta: Meta) -> list[tuple[str, str]]:
    fields = [(f"postroom-{name}", str(meta[name])) for name in ("key", "id", "priority") if name in meta]
    return [*meta.get("headers", {}).items(), *fields]


def _of_failures(meta: Meta, topic: str) -> Iterator[tuple[str, str]]:
    if "topic" in meta and not topic.startswith(REDRIVEN):
        yield "postroom-topic", meta["topic"]
    for entry in meta.get("history", ()):
        yield "postroom-failure", _failure(entry)


def _failure(entry: Mapping[str, Any]) -> str:
    """`2026-11-25T04:20:00.000Z rejected: why`."""
    at = datetime.fromtimestamp(entry["at"] / 1000, UTC).isoformat(timespec="milliseconds")
    error = entry.get("error")
    return f"{at.removesuffix('+00:00')}Z {entry['outcome']}" + (f": {error}" if error else "")


def _speakable(text: str) -> str:
    """Text of other doors as MQTT can carry it. [MQTT-1.5.4-2]"""
    return text.replace("\0", "\ufffd")


def user_property(properties: MessageProperties, name: str) -> str | None:
    """The first user property of a name."""
    return next((value for found, value in properties.get("user", ()) if found == name), None)


def passed(via: str | None) -> Iterable[str]:
    """The logs that a message has been in."""
    return via.split(",") if via else ()
