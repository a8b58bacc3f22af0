"""Properties (§2.2.2): one table for both directions, with type, range, and the packets that may carry each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.dialect import Dialect
from broker.protocols.mqtt.codec.error import MqttError, forbidden, malformed
from broker.protocols.mqtt.codec.fields import (
    MAX_FIELD,
    MAX_VARINT,
    Reader,
    check_plain,
    unicode,
    write_binary,
    write_four,
    write_pair,
    write_text,
    write_two,
    write_varint,
)
from broker.protocols.mqtt.codec.packets import NONE, Properties
from broker.protocols.mqtt.codec.topics import check_name


@dataclass(frozen=True, slots=True)
class Form:
    """A data type: how it is read and written, and the highest value of numbers."""

    read: Callable[[Reader], Any]
    write: Callable[[Any], bytes]
    high: int = 0


def _read_plain(reader: Reader) -> str:
    return check_plain(reader.text(), "a property")


def _read_topic(reader: Reader) -> str:
    text = unicode(reader.binary())
    try:
        return check_name(text)
    except MqttError as fault:
        raise malformed(f"response topic: {fault.detail}", "MQTT-3.3.2-14") from None


def _write_byte(number: int) -> bytes:
    return bytes((number,))


def _write_topic(name: str) -> bytes:
    return write_text(check_name(name))


FLAG = Form(Reader.byte, _write_byte, 1)
TWO = Form(Reader.two, write_two, MAX_FIELD)
FOUR = Form(Reader.four, write_four, 0xFFFF_FFFF)
VARINT = Form(Reader.varint, write_varint, MAX_VARINT)
TEXT = Form(Reader.text, write_text)
PLAIN = Form(_read_plain, write_text)
TOPIC = Form(_read_topic, _write_topic)
BINARY = Form(Reader.binary, write_binary)
PAIR = Form(Reader.pair, write_pair)


@dataclass(frozen=True, slots=True)
class Property:
    """A row of the table. `low` is the least value of a number; the values of what `repeats` are a list."""

    code: int
    name: str
    form: Form
    places: frozenset[Kind]
    low: int = 0
    repeats: bool = False
    reason: Reason = Reason.PROTOCOL_ERROR
    rules: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Refuse a number out of range."""
        if not self.low <= value <= self.form.high:
            raise MqttError(self.reason, f"{self.name} is {value}", *self.rules)


_PUBLISHED = frozenset((Kind.PUBLISH, Kind.WILL))
_GREETING = frozenset((Kind.CONNECT, Kind.CONNACK))
_CONNECT = frozenset((Kind.CONNECT,))
_CONNACK = frozenset((Kind.CONNACK,))
_WITH_REASON = frozenset(
    (
        *(Kind.CONNACK, Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP),
        *(Kind.SUBACK, Kind.UNSUBACK, Kind.DISCONNECT, Kind.AUTH),
    )
)
_ALL = frozenset(Kind) - {Kind.PINGREQ, Kind.PINGRESP}

TABLE: Final = (
    Property(0x01, "payload_format", FLAG, _PUBLISHED),
    Property(0x02, "message_expiry", FOUR, _PUBLISHED),
    Property(0x03, "content_type", TEXT, _PUBLISHED),
    Property(0x08, "response_topic", TOPIC, _PUBLISHED),
    Property(0x09, "correlation_data", BINARY, _PUBLISHED),
    Property(0x0B, "subscription_ids", VARINT, frozenset((Kind.PUBLISH, Kind.SUBSCRIBE)), low=1, repeats=True),
    Property(0x11, "session_expiry", FOUR, _GREETING | {Kind.DISCONNECT}),
    Property(0x12, "assigned_client_id", PLAIN, _CONNACK),
    Property(0x13, "server_keep_alive", TWO, _CONNACK),
    Property(0x15, "authentication_method", PLAIN, _GREETING | {Kind.AUTH}),
    Property(0x16, "authentication_data", BINARY, _GREETING | {Kind.AUTH}),
    Property(0x17, "request_problem_information", FLAG, _CONNECT),
    Property(0x18, "will_delay", FOUR, frozenset((Kind.WILL,))),
    Property(0x19, "request_response_information", FLAG, _CONNECT),
    Property(0x1A, "response_information", TEXT, _CONNACK),
    Property(0x1C, "server_reference", TEXT, _CONNACK | {Kind.DISCONNECT}),
    Property(0x1F, "reason_string", TEXT, _WITH_REASON),
    Property(0x21, "receive_maximum", TWO, _GREETING, low=1),
    Property(0x22, "topic_alias_maximum", TWO, _GREETING),
    Property(
        *(0x23, "topic_alias", TWO, frozenset((Kind.PUBLISH,))),
        low=1,
        reason=Reason.TOPIC_ALIAS_INVALID,
        rules=("MQTT-3.3.2-7", "MQTT-3.3.2-8"),
    ),
    Property(0x24, "maximum_qos", FLAG, _CONNACK),
    Property(0x25, "retain_available", FLAG, _CONNACK),
    Property(0x26, "user", PAIR, _ALL, repeats=True),
    Property(0x27, "maximum_packet_size", FOUR, _GREETING, low=1),
    Property(0x28, "wildcard_subscriptions_available", FLAG, _CONNACK),
    Property(0x29, "subscription_ids_available", FLAG, _CONNACK),
    Property(0x2A, "shared_subscriptions_available", FLAG, _CONNACK),
)
_ROWS = {place: {row.code: row for row in TABLE if place in row.places} for place in Kind}
_BY_NAME = {row.name: row for row in TABLE}


def read_properties(reader: Reader, place: Kind, dialect: Dialect) -> Properties:
    """Length and properties at the cursor. Refuses what the packet may not carry, what is twice, what is out of range,
    and more user properties than the limit. [MQTT-2.2.2-1]"""
    stop = reader.varint() + reader.at
    if stop == reader.at:
        return NONE
    end = reader.end
    if stop > end:
        raise malformed("the properties are longer than the packet")
    reader.end = stop
    rows = _ROWS[place]
    found: dict[str, Any] = {}
    while reader.at < stop:
        code = reader.byte()
        row = rows.get(code)
        if row is None:
            raise malformed(f"0x{code:02X} is no property of {place.name}")
        value = row.form.read(reader)
        if row.form.high:
            row.check(value)
        if row.repeats:
            _append(found.setdefault(row.name, []), value, row, dialect)
        elif row.name in found:
            raise forbidden(f"{row.name} twice in {place.name}")
        else:
            found[row.name] = value
    reader.end = end
    _check_together(found, place, dialect)
    return found  # type: ignore[return-value]


def write_properties(properties: Properties, place: Kind) -> bytes:
    """Length and properties. Raises MqttError for what the packet may not carry and for values that do not fit."""
    if not properties:
        return b"\0"
    written = write_listed(properties, place)
    return write_varint(len(written)) + written


def write_listed(properties: Mapping[str, Any], place: Kind) -> bytes:
    """The properties without their length."""
    pieces: list[bytes] = []
    for name, given in properties.items():
        row = _BY_NAME[name]
        if place not in row.places:
            raise forbidden(f"{name} in {place.name}")
        for value in given if row.repeats else (given,):
            if row.form.high:
                row.check(value)
            pieces += (_write_byte(row.code), row.form.write(value))
    return b"".join(pieces)


def _append(values: list[Any], value: Any, row: Property, dialect: Dialect) -> None:
    most = dialect.limits.max_user_properties if row.form is PAIR else dialect.limits.max_filters
    if len(values) >= most:
        raise MqttError(Reason.QUOTA_EXCEEDED, f"{row.name} more than {most} times")
    values.append(value)


def _check_together(found: Mapping[str, Any], place: Kind, dialect: Dialect) -> None:
    if "authentication_data" in found and "authentication_method" not in found:
        raise forbidden("authentication data without a method")
    if "subscription_ids" in found:
        if place is Kind.PUBLISH and dialect.from_client:
            raise forbidden("a subscription identifier from a client", "MQTT-3.3.4-6")
        if place is Kind.SUBSCRIBE and len(found["subscription_ids"]) > 1:
            raise forbidden("two subscription identifiers in SUBSCRIBE")
    if "session_expiry" in found and place is Kind.DISCONNECT and not dialect.from_client:
        raise forbidden("a session expiry from the server", "MQTT-3.14.2-2")
