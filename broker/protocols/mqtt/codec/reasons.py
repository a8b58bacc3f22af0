"""Which reason codes each packet may carry (§3.x.2.1), from whom, and what is left of them before MQTT 5."""

from typing import Final

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.dialect import Dialect
from broker.protocols.mqtt.codec.error import forbidden, malformed
from broker.protocols.mqtt.codec.fields import Reader

_BOTH = {0x80, 0x83, 0x87}
_RECEIVED = frozenset(_BOTH | {0x00, 0x10, 0x90, 0x91, 0x97, 0x99})
_RELEASED = frozenset((0x00, 0x92))
_ENDED_BY_ANYONE = {0x00, 0x80, 0x81, 0x82, 0x83, 0x90, *range(0x93, 0x9A)}
_ENDED_BY_SERVER = {0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, *range(0x9A, 0xA3)}

FROM_CLIENT: Final[dict[Kind, frozenset[int]]] = {
    Kind.PUBACK: _RECEIVED,
    Kind.PUBREC: _RECEIVED,
    Kind.PUBREL: _RELEASED,
    Kind.PUBCOMP: _RELEASED,
    Kind.DISCONNECT: frozenset(_ENDED_BY_ANYONE | {0x04}),
    Kind.AUTH: frozenset((0x18, 0x19)),
}
"""The reason codes that each packet may carry from a client."""

FROM_SERVER: Final[dict[Kind, frozenset[int]]] = FROM_CLIENT | {
    Kind.CONNACK: frozenset(
        {0x00, 0x8C, 0x90, 0x95, 0x97, 0x99, *range(0x80, 0x8B), *range(0x9A, 0x9E), 0x9F},
    ),
    Kind.SUBACK: frozenset(_BOTH | {0x00, 0x01, 0x02, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}),
    Kind.UNSUBACK: frozenset(_BOTH | {0x00, 0x11, 0x8F, 0x91}),
    Kind.DISCONNECT: frozenset(_ENDED_BY_ANYONE | _ENDED_BY_SERVER),
    Kind.AUTH: frozenset((0x00, 0x18)),
}
"""The same from a server."""

RETURN_CODES: Final[tuple[Reason, ...]] = (
    Reason.SUCCESS,
    Reason.UNSUPPORTED_PROTOCOL_VERSION,
    Reason.CLIENT_IDENTIFIER_NOT_VALID,
    Reason.SERVER_UNAVAILABLE,
    Reason.BAD_USER_NAME_OR_PASSWORD,
    Reason.NOT_AUTHORIZED,
)
"""What a CONNACK of 3.1 and 3.1.1 can say, by its return code."""

_RULES = {
    Kind.CONNACK: "MQTT-3.2.2-8",
    Kind.PUBACK: "MQTT-3.4.2-1",
    Kind.PUBREC: "MQTT-3.5.2-1",
    Kind.PUBREL: "MQTT-3.6.2-1",
    Kind.PUBCOMP: "MQTT-3.7.2-1",
    Kind.SUBACK: "MQTT-3.9.3-2",
    Kind.UNSUBACK: "MQTT-3.11.3-2",
    Kind.DISCONNECT: "MQTT-3.14.2-1",
    Kind.AUTH: "MQTT-3.15.2-1",
}


def read_reason(reader: Reader, kind: Kind, dialect: Dialect) -> Reason:
    """A reason code that this packet may carry from this sender. [MQTT-3.2.2-8, 3.4.2-1, 3.5.2-1, 3.6.2-1, 3.7.2-1,
    3.9.3-2, 3.11.3-2, 3.14.2-1, 3.15.2-1]"""
    code = reader.byte()
    if code not in (FROM_CLIENT if dialect.from_client else FROM_SERVER)[kind]:
        raise forbidden(f"{kind.name} with reason code 0x{code:02X}", _RULES[kind])
    return Reason(code)


def write_reason(reason: Reason, kind: Kind) -> bytes:
    """A reason code. Raises MqttError when nobody may send it in this packet."""
    if reason not in FROM_SERVER[kind] and reason not in FROM_CLIENT.get(kind, ()):
        raise forbidden(f"{kind.name} with reason code 0x{reason:02X}", _RULES[kind])
    return bytes((reason,))


def read_return_code(reader: Reader) -> Reason:
    """What CONNACK says before MQTT 5."""
    code = reader.byte()
    if code >= len(RETURN_CODES):
        raise malformed(f"there is no return code {code}")
    return RETURN_CODES[code]


def write_return_code(reason: Reason) -> bytes:
    """The nearest that CONNACK has before MQTT 5: who you are, or not now."""
    if reason in RETURN_CODES:
        return bytes((RETURN_CODES.index(reason),))
    refused = reason in (Reason.BANNED, Reason.BAD_AUTHENTICATION_METHOD, Reason.TOPIC_NAME_INVALID)
    return write_return_code(Reason.NOT_AUTHORIZED if refused else Reason.SERVER_UNAVAILABLE)


def read_granted(reader: Reader) -> Reason:
    """What SUBACK says of one filter before MQTT 5. [MQTT-3.9.3-2]"""
    code = reader.byte()
    if code not in (0, 1, 2, Reason.UNSPECIFIED_ERROR):
        raise malformed(f"SUBACK with return code 0x{code:02X}", _RULES[Kind.SUBACK])
    return Reason(code)


def write_granted(reason: Reason) -> bytes:
    """The same written: one code for all failures."""
    return bytes((min(reason, Reason.UNSPECIFIED_ERROR),))
