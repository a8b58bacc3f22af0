"""The bodies of SUBSCRIBE (§3.8), SUBACK (§3.9), UNSUBSCRIBE (§3.10) and UNSUBACK (§3.11)."""

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.dialect import Dialect
from broker.protocols.mqtt.codec.error import MqttError, forbidden, malformed
from broker.protocols.mqtt.codec.fields import Reader, write_packet_id, write_text
from broker.protocols.mqtt.codec.packets import NONE, V5, Properties, Request, Suback, Subscribe, Unsuback, Unsubscribe
from broker.protocols.mqtt.codec.properties import read_properties, write_properties
from broker.protocols.mqtt.codec.reasons import read_granted, read_reason, write_granted, write_reason
from broker.protocols.mqtt.codec.topics import check_filter, shared


def _read_properties(reader: Reader, kind: Kind, dialect: Dialect) -> Properties:
    return read_properties(reader, kind, dialect) if dialect.version == V5 else NONE


def _write_properties(properties: Properties, kind: Kind, version: int) -> bytes:
    return write_properties(properties, kind) if version == V5 else b""


def read_subscribe(reader: Reader, dialect: Dialect) -> Subscribe:
    """[MQTT-3.8.3-1, 3.8.3-2, 3.8.3-3]"""
    packet_id = reader.packet_id()
    properties = _read_properties(reader, Kind.SUBSCRIBE, dialect)
    requests: list[Request] = []
    while reader.at < reader.end:
        _check_count(requests, dialect)
        text = check_filter(reader.text())
        requests.append(_request(text, reader.byte(), dialect.version))
    if not requests:
        raise forbidden("SUBSCRIBE without a filter", "MQTT-3.8.3-2", "MQTT-3.8.3-3")
    return Subscribe(packet_id, tuple(requests), properties)


def _check_count(found: list[Request] | list[str], dialect: Dialect) -> None:
    if len(found) >= dialect.limits.max_filters:
        raise MqttError(Reason.QUOTA_EXCEEDED, f"more than {dialect.limits.max_filters} filters in one packet")


def _request(text: str, options: int, version: int) -> Request:
    """[MQTT-3.8.3-4, 3.8.3-5]"""
    if options & (0xC0 if version == V5 else 0xFC):
        raise malformed(f"reserved bits of the subscription options 0x{options:02X} are set", "MQTT-3.8.3-5")
    request = Request(text, options & 3, options & 4 == 4, options & 8 == 8, options >> 4 & 3)
    _check_request(request)
    return request


def _check_request(request: Request) -> None:
    if not 0 <= request.qos <= 2:
        raise malformed(f"QoS {request.qos} asked for")
    if not 0 <= request.retain_handling <= 2:
        raise forbidden(f"retain handling {request.retain_handling}")
    if request.no_local and shared(request.filter):
        raise forbidden("No Local on a shared subscription", "MQTT-3.8.3-4")


def write_subscribe(packet: Subscribe, version: int) -> bytes:
    """Options that the version does not have are left out."""
    if not packet.requests:
        raise forbidden("SUBSCRIBE without a filter", "MQTT-3.8.3-2", "MQTT-3.8.3-3")
    pieces = [write_packet_id(packet.packet_id), _write_properties(packet.properties, Kind.SUBSCRIBE, version)]
    for request in packet.requests:
        _check_request(request)
        options = request.qos
        if version == V5:
            options |= request.no_local << 2 | request.retain_as_published << 3 | request.retain_handling << 4
        pieces += (write_text(check_filter(request.filter)), bytes((options,)))
    return b"".join(pieces)


def read_suback(reader: Reader, dialect: Dialect) -> Suback:
    """[MQTT-3.9.2-1, 3.9.3-1, 3.9.3-2]"""
    packet_id = reader.packet_id("MQTT-2.2.1-6")
    properties = _read_properties(reader, Kind.SUBACK, dialect)
    reasons: list[Reason] = []
    while reader.at < reader.end:
        five = dialect.version == V5
        reasons.append(read_reason(reader, Kind.SUBACK, dialect) if five else read_granted(reader))
    if not reasons:
        raise malformed("SUBACK without a reason code", "MQTT-3.9.3-1")
    return Suback(packet_id, tuple(reasons), properties)


def write_suback(packet: Suback, version: int) -> bytes:
    """[MQTT-3.9.3-2]"""
    start = write_packet_id(packet.packet_id) + _write_properties(packet.properties, Kind.SUBACK, version)
    if version == V5:
        return start + b"".join([write_reason(reason, Kind.SUBACK) for reason in packet.reasons])
    return start + b"".join([write_granted(reason) for reason in packet.reasons])


def read_unsubscribe(reader: Reader, dialect: Dialect) -> Unsubscribe:
    """[MQTT-3.10.3-1, 3.10.3-2]"""
    packet_id = reader.packet_id()
    properties = _read_properties(reader, Kind.UNSUBSCRIBE, dialect)
    filters: list[str] = []
    while reader.at < reader.end:
        _check_count(filters, dialect)
        filters.append(check_filter(reader.text()))
    if not filters:
        raise forbidden("UNSUBSCRIBE without a filter", "MQTT-3.10.3-2")
    return Unsubscribe(packet_id, tuple(filters), properties)


def write_unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    """Raises MqttError for filters that are none."""
    if not packet.filters:
        raise forbidden("UNSUBSCRIBE without a filter", "MQTT-3.10.3-2")
    start = write_packet_id(packet.packet_id) + _write_properties(packet.properties, Kind.UNSUBSCRIBE, version)
    return start + b"".join([write_text(check_filter(text)) for text in packet.filters])


def read_unsuback(reader: Reader, dialect: Dialect) -> Unsuback:
    """[MQTT-3.11.2-1, 3.11.3-1, 3.11.3-2]"""
    packet_id = reader.packet_id("MQTT-2.2.1-6")
    if dialect.version != V5:
        return Unsuback(packet_id)
    properties = read_properties(reader, Kind.UNSUBACK, dialect)
    reasons: list[Reason] = []
    while reader.at < reader.end:
        reasons.append(read_reason(reader, Kind.UNSUBACK, dialect))
    if not reasons:
        raise malformed("UNSUBACK without a reason code", "MQTT-3.11.3-1")
    return Unsuback(packet_id, tuple(reasons), properties)


def write_unsuback(packet: Unsuback, version: int) -> bytes:
    """The reasons are left out before MQTT 5."""
    start = write_packet_id(packet.packet_id)
    if version != V5:
        return start
    reasons = b"".join([write_reason(reason, Kind.UNSUBACK) for reason in packet.reasons])
    return start + write_properties(packet.properties, Kind.UNSUBACK) + reasons
