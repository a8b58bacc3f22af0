"""The bodies of PUBLISH (§3.3) and its acknowledgements PUBACK, PUBREC, PUBREL and PUBCOMP (§3.4 to §3.7)."""

from struct import Struct

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.dialect import Dialect
from broker.protocols.mqtt.codec.error import forbidden, malformed
from broker.protocols.mqtt.codec.fields import Reader, write_packet_id, write_varint
from broker.protocols.mqtt.codec.packets import NONE, V5, Ack, Properties, Publish
from broker.protocols.mqtt.codec.properties import read_properties, write_properties
from broker.protocols.mqtt.codec.reasons import read_reason, write_reason
from broker.protocols.mqtt.codec.topics import read_name, write_name

HEADS = {Kind.PUBACK: 0x40, Kind.PUBREC: 0x50, Kind.PUBREL: 0x62, Kind.PUBCOMP: 0x70}
"""First bytes of the acknowledgements, flags included."""

_PLAIN = Struct(">BBH")
_START = Struct(">BBB").pack
UNNAMED = b"\0\0"


def read_publish(reader: Reader, head: int, dialect: Dialect) -> Publish:
    """`head` is the first byte, whose QoS has been checked. [MQTT-3.3.2-1, 3.3.2-2, 2.2.1-2, 2.2.1-3]"""
    qos = head >> 1 & 3
    field = reader.binary()
    packet_id = reader.packet_id() if qos else 0
    properties = read_properties(reader, Kind.PUBLISH, dialect) if dialect.version == V5 else NONE
    aliased = not field and "topic_alias" in properties
    payload = reader.rest()
    topic = "" if aliased else read_name(field)
    return Publish(topic, payload, qos, head & 1 == 1, head & 8 == 8, packet_id, properties)


def write_publish(packet: Publish, version: int) -> bytes:
    """The whole packet. Properties are left out before MQTT 5."""
    topic, payload, qos, retain, dup, packet_id, properties = packet
    own = write_packet_id(packet_id) if qos else b""
    if version == V5:
        own += write_properties(properties, Kind.PUBLISH)
    start = publish_start(publish_head(qos, retain, dup), write_topic(topic, properties), len(own) + len(payload))
    return start + own + payload


def publish_head(qos: int, retain: bool, dup: bool = False) -> int:
    """The first byte. [MQTT-3.3.1-2, 3.3.1-4]"""
    if not 0 <= qos <= 2:
        raise malformed(f"QoS {qos}", "MQTT-3.3.1-4")
    if dup and not qos:
        raise malformed("DUP with QoS 0", "MQTT-3.3.1-2")
    return 0x30 | dup << 3 | qos << 1 | retain


def write_topic(topic: str, properties: Properties) -> bytes:
    """The field of the topic, which may be empty where an alias stands for it."""
    if not topic and "topic_alias" in properties:
        return UNNAMED
    return write_name(topic)


def publish_start(head: int, topic: bytes, rest: int) -> bytes:
    """A PUBLISH up to and with its topic, given how many bytes will follow. Raises MqttError over 256 MiB."""
    size = len(topic) + rest
    if 0x80 <= size < 0x4000:
        return _START(head, size & 0x7F | 0x80, size >> 7) + topic
    return bytes((head,)) + write_varint(size) + topic


def read_ack(reader: Reader, kind: Kind, dialect: Dialect) -> Ack:
    """[MQTT-2.2.1-5, 3.4.2-1, 3.5.2-1, 3.6.2-1, 3.7.2-1]"""
    packet_ids = (reader.packet_id("MQTT-2.2.1-5"),)
    if reader.at == reader.end:
        return Ack(kind, packet_ids)
    if dialect.version != V5:
        raise malformed(f"{kind.name} is longer than a packet identifier, which it may not before MQTT 5")
    reason = read_reason(reader, kind, dialect)
    properties = read_properties(reader, kind, dialect) if reader.at < reader.end else NONE
    return Ack(kind, packet_ids, reason, properties)


def write_ack(packet: Ack, version: int) -> bytes:
    """One packet per identifier; as short as can be. Before MQTT 5 a failure cannot be said and raises MqttError."""
    kind, packet_ids, reason, properties = packet
    head = HEADS[kind]
    if not reason and not properties:
        if not all(0 < packet_id <= 0xFFFF for packet_id in packet_ids):
            raise forbidden(f"{kind.name} with a packet identifier out of range", "MQTT-2.2.1-5")
        pack = _PLAIN.pack
        return b"".join([pack(head, 2, packet_id) for packet_id in packet_ids])
    if version != V5:
        raise forbidden(f"{kind.name} has no reason and no properties before MQTT 5")
    ending = write_reason(reason, kind) + (write_properties(properties, kind) if properties else b"")
    start = bytes((head,)) + write_varint(2 + len(ending))
    return b"".join([start + write_packet_id(packet_id) + ending for packet_id in packet_ids])
