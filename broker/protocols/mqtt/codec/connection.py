"""The bodies of CONNECT (§3.1), CONNACK (§3.2), DISCONNECT (§3.14) and AUTH (§3.15)."""

from typing import Final

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.dialect import Dialect
from broker.protocols.mqtt.codec.error import MqttError, forbidden, malformed
from broker.protocols.mqtt.codec.fields import Reader, check_plain, unicode, write_binary, write_text, write_two
from broker.protocols.mqtt.codec.packets import NONE, V5, V31, V311, Auth, Connack, Connect, Disconnect, Will
from broker.protocols.mqtt.codec.properties import read_properties, write_properties
from broker.protocols.mqtt.codec.reasons import read_reason, read_return_code, write_reason, write_return_code
from broker.protocols.mqtt.codec.topics import check_name

PROTOCOLS: Final = {V31: b"MQIsdp", V311: b"MQTT", V5: b"MQTT"}
_CLEAN, _WILL, _WILL_RETAIN, _PASSWORD, _USERNAME = 0x02, 0x04, 0x20, 0x40, 0x80


def read_version(reader: Reader) -> int:
    """Protocol name and level, 3, 4 or 5. Raises UNSUPPORTED_PROTOCOL_VERSION for others. [MQTT-3.1.2-1, 3.1.2-2]"""
    name = reader.binary()
    if name not in PROTOCOLS.values():
        raise MqttError(Reason.UNSUPPORTED_PROTOCOL_VERSION, f"the protocol {name[:16]!r} is not MQTT", "MQTT-3.1.2-1")
    level = reader.byte()
    if PROTOCOLS.get(level) != name:
        raise MqttError(
            *(Reason.UNSUPPORTED_PROTOCOL_VERSION, f"{name.decode()} level {level}; 3.1, 3.1.1 and 5.0 are spoken"),
            "MQTT-3.1.2-2",
        )
    return level


def read_connect(reader: Reader, dialect: Dialect) -> Connect:
    """What follows protocol name and level. [MQTT-3.1.2-3 … 3.1.2-19, 3.1.3-1, 3.1.3-11, 3.1.3-12]"""
    version = dialect.version
    flags = reader.byte()
    _check_flags(flags, version)
    keep_alive = reader.two()
    properties = read_properties(reader, Kind.CONNECT, dialect) if version == V5 else NONE
    client_id = _read_client_id(reader, flags, version)
    will = _read_will(reader, flags, dialect) if flags & _WILL else None
    username = password = None
    # 3.1 lets the length of the packet overrule the flags.
    short = version == V31 and reader.at == reader.end
    if flags & _USERNAME and not short:
        username = check_plain(reader.text(), "the user name")
        short = version == V31 and reader.at == reader.end
    if flags & _PASSWORD and not short:
        password = reader.binary()
    return Connect(version, client_id, bool(flags & _CLEAN), keep_alive, username, password, will, properties)


def _check_flags(flags: int, version: int) -> None:
    if flags & 1 and version != V31:
        raise malformed("the reserved flag of CONNECT is set", "MQTT-3.1.2-3")
    will_qos = flags >> 3 & 3
    if not flags & _WILL and will_qos:
        raise malformed("a will QoS without a will", "MQTT-3.1.2-7")
    if not flags & _WILL and flags & _WILL_RETAIN:
        raise malformed("a will retain without a will", "MQTT-3.1.2-8", "MQTT-3.1.2-13")
    if will_qos == 3:
        raise malformed("the will QoS is 3")
    if version == V311 and flags & _PASSWORD and not flags & _USERNAME:
        raise malformed("a password without a user name, which 3.1.1 does not allow")


def _read_client_id(reader: Reader, flags: int, version: int) -> str:
    field = reader.binary()
    try:
        client_id = check_plain(unicode(field), "the client identifier")
    except MqttError as fault:
        raise MqttError(Reason.CLIENT_IDENTIFIER_NOT_VALID, fault.detail, *fault.rules) from None
    if not client_id and (version == V31 or (version == V311 and not flags & _CLEAN)):
        raise MqttError(
            Reason.CLIENT_IDENTIFIER_NOT_VALID, "an empty client identifier needs a clean session and 3.1.1"
        )
    return client_id


def _read_will(reader: Reader, flags: int, dialect: Dialect) -> Will:
    properties = read_properties(reader, Kind.WILL, dialect) if dialect.version == V5 else NONE
    topic = check_name(reader.text())
    return Will(topic, reader.binary(), flags >> 3 & 3, bool(flags & _WILL_RETAIN), properties)


def write_connect(packet: Connect) -> bytes:
    """The whole body, in the version that the packet names. Raises MqttError for what that version cannot say."""
    version = packet.version
    will, username, password = packet.will, packet.username, packet.password
    flags = _CLEAN if packet.clean_start else 0
    if will is not None:
        if not 0 <= will.qos <= 2:
            raise malformed(f"the will QoS is {will.qos}")
        flags |= _WILL | will.qos << 3 | (_WILL_RETAIN if will.retain else 0)
    flags |= (_USERNAME if username is not None else 0) | (_PASSWORD if password is not None else 0)
    _check_flags(flags, version)
    pieces = [write_binary(PROTOCOLS[version]), bytes((version, flags)), write_two(packet.keep_alive)]
    if version == V5:
        pieces.append(write_properties(packet.properties, Kind.CONNECT))
    pieces.append(write_text(packet.client_id))
    if will is not None:
        if version == V5:
            pieces.append(write_properties(will.properties, Kind.WILL))
        pieces += (write_text(check_name(will.topic)), write_binary(will.payload))
    if username is not None:
        pieces.append(write_text(username))
    if password is not None:
        pieces.append(write_binary(password))
    return b"".join(pieces)


def read_connack(reader: Reader, dialect: Dialect) -> Connack:
    """[MQTT-3.2.2-1, 3.2.2-6, 3.2.2-8]"""
    flags = reader.byte()
    if dialect.version == V31:
        flags = 0  # not used
    if flags & 0xFE:
        raise malformed("reserved flags of CONNACK are set", "MQTT-3.2.2-1")
    reason = read_reason(reader, Kind.CONNACK, dialect) if dialect.version == V5 else read_return_code(reader)
    if flags & 1 and reason:
        raise forbidden("a session that is present with a connection that is refused", "MQTT-3.2.2-6")
    properties = read_properties(reader, Kind.CONNACK, dialect) if dialect.version == V5 else NONE
    return Connack(reason, bool(flags & 1), properties)


def write_connack(packet: Connack, version: int) -> bytes:
    """[MQTT-3.2.2-1, 3.2.2-6, 3.2.2-8]"""
    if packet.session_present and packet.reason:
        raise forbidden("a session that is present with a connection that is refused", "MQTT-3.2.2-6")
    present = b"\1" if packet.session_present and version != V31 else b"\0"
    if version == V5:
        return present + write_reason(packet.reason, Kind.CONNACK) + write_properties(packet.properties, Kind.CONNACK)
    return present + write_return_code(packet.reason)


def read_disconnect(reader: Reader, dialect: Dialect) -> Disconnect:
    """[MQTT-3.14.2-1]"""
    if reader.at == reader.end:
        return Disconnect()
    if dialect.version != V5:
        raise malformed("DISCONNECT has no body before MQTT 5")
    reason = read_reason(reader, Kind.DISCONNECT, dialect)
    if reader.at == reader.end:
        return Disconnect(reason)
    return Disconnect(reason, read_properties(reader, Kind.DISCONNECT, dialect))


def write_disconnect(packet: Disconnect, version: int) -> bytes:
    """Nothing before MQTT 5, and as little as can be after."""
    if version != V5 or not (packet.reason or packet.properties):
        return b""
    return write_reason(packet.reason, Kind.DISCONNECT) + (
        write_properties(packet.properties, Kind.DISCONNECT) if packet.properties else b""
    )


def read_auth(reader: Reader, dialect: Dialect) -> Auth:
    """[MQTT-3.15.2-1, 4.12.0-5]"""
    if dialect.version != V5:
        raise forbidden("AUTH is of MQTT 5")
    if reader.at == reader.end and not dialect.from_client:
        return Auth()
    reason = read_reason(reader, Kind.AUTH, dialect)
    properties = read_properties(reader, Kind.AUTH, dialect)
    if "authentication_method" not in properties:
        raise forbidden("AUTH without an authentication method", "MQTT-4.12.0-5")
    return Auth(reason, properties)


def write_auth(packet: Auth, version: int) -> bytes:
    """Raises MqttError before MQTT 5."""
    if version != V5:
        raise forbidden("AUTH is of MQTT 5")
    if not (packet.reason or packet.properties):
        return b""
    return write_reason(packet.reason, Kind.AUTH) + write_properties(packet.properties, Kind.AUTH)
