"""What a PUBLISH says, as the log keeps it, and back: an MQTT client hears exactly what another one sent.

Content type, expiry and user properties have their fields in every message's meta, so that all doors see them. What
only MQTT knows is in its field `mqtt`:

    qos       0 or 1; absent: 2, as for messages of other doors, which were all committed before they were answered
    retain    the flag, as published
    response, correlation, format     response topic, correlation data, payload format
    user      the user properties in order, where a map could not hold them (a name that repeats, or is empty)
    type      a content type that is no content type to other doors
    from      the client that sent it, kept only while that client has a subscription with No Local

Messages of other doors show their key, id and priority as user properties. A pure floor.
"""

from collections.abc import Sequence
from typing import Any, Final

from broker.core.message import MAX_ID_BYTES, Meta, Row, pack_meta, packed_meta, unpack_meta, utf8_size
from broker.protocols.mqtt.codec.packets import NONE, Properties

_FIELDS: Final = (("response", "response_topic"), ("correlation", "correlation_data"), ("format", "payload_format"))
QOS_0, QOS_1 = packed_meta({"mqtt": {"qos": 0}}), packed_meta({"mqtt": {"qos": 1}})
PLAIN: Final[dict[bytes | None, int]] = {QOS_0: 0, QOS_1: 1, None: 2}
"""Meta of messages that have nothing but their QoS; `BY_QOS` is the inverse."""
BY_QOS: Final = (QOS_0, QOS_1, None)


def packed(qos: int, retain: bool, properties: Properties, now: int, sender: str | None = None) -> bytes | None:
    """The meta of a message that is published now (unix ms). Raises BAD_MESSAGE when it is too large."""
    mqtt: dict[str, Any] = {}
    if qos < 2:
        mqtt["qos"] = qos
    if retain:
        mqtt["retain"] = True
    if sender is not None:
        mqtt["from"] = sender
    meta: Meta = {}
    for short, name in _FIELDS:
        if name in properties:
            mqtt[short] = properties[name]  # type: ignore[literal-required]
    if "content_type" in properties:
        content_type = properties["content_type"]
        if content_type and utf8_size(content_type) <= MAX_ID_BYTES:
            meta["content_type"] = content_type
        else:
            mqtt["type"] = content_type
    if "message_expiry" in properties:
        meta["expires_at"] = now + 1_000 * properties["message_expiry"]
    if user := properties.get("user"):
        headers = {name: value for name, value in user if name}
        if headers:
            meta["headers"] = headers
        if len(headers) != len(user):
            mqtt["user"] = user
    if mqtt:
        meta["mqtt"] = mqtt
    return pack_meta(meta)


class Heard:
    """A message as MQTT clients hear it. `properties` lack the expiry, which counts down: see `left`."""

    __slots__ = ("expires_at", "properties", "qos", "retain", "sender")

    def __init__(self, row: Row) -> None:
        meta = unpack_meta(row[3])
        mqtt: dict[str, Any] = meta.get("mqtt", {})
        self.qos: int = mqtt.get("qos", 2)
        self.retain: bool = mqtt.get("retain", False)
        self.sender: str | None = mqtt.get("from")
        self.expires_at = meta.get("expires_at")
        found: dict[str, Any] = {name: mqtt[short] for short, name in _FIELDS if short in mqtt}
        content_type = meta.get("content_type", mqtt.get("type"))
        if content_type is not None:
            found["content_type"] = content_type
        if user := mqtt.get("user") or _user(meta):
            found["user"] = [(name, value) for name, value in user]
        self.properties: Properties = found or NONE  # type: ignore[assignment]

    def left(self, now: int) -> int | None:
        """Seconds until it expires, rounded up, 0 or less when it has; None when it never does. `now` in unix ms."""
        return None if self.expires_at is None else -((now - self.expires_at) // 1_000)


def _user(meta: Meta) -> Sequence[tuple[str, str]]:
    broker = [(f"postroom-{name}", str(meta[name])) for name in ("key", "id", "priority") if name in meta]
    return [*meta.get("headers", {}).items(), *broker]
