"""Packets to bytes. To send one message to many, see `fanout`."""

from broker.protocols.mqtt.codec.connection import write_auth, write_connack, write_connect, write_disconnect
from broker.protocols.mqtt.codec.fields import write_varint
from broker.protocols.mqtt.codec.packets import (
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from broker.protocols.mqtt.codec.publication import write_ack, write_publish
from broker.protocols.mqtt.codec.subscription import write_suback, write_subscribe, write_unsuback, write_unsubscribe


def encode(packet: Packet, version: int) -> bytes:
    """The packet in bytes. What an older version has no words for is left out where that is harmless.

    Raises MqttError for what the protocol does not allow: an identifier 0, a wildcard in a name, NUL in a text, a
    property that does not belong there, a field over 65,535 bytes. The state of the connection is not its business.
    """
    if type(packet) is Publish:
        return write_publish(packet, version)
    if type(packet) is Ack:
        return write_ack(packet, version)
    head, body = _rest(packet, version)
    return bytes((head,)) + write_varint(len(body)) + body


def _rest(packet: Packet, version: int) -> tuple[int, bytes]:
    match packet:
        case Connect():
            return 0x10, write_connect(packet)
        case Connack():
            return 0x20, write_connack(packet, version)
        case Subscribe():
            return 0x82, write_subscribe(packet, version)
        case Suback():
            return 0x90, write_suback(packet, version)
        case Unsubscribe():
            return 0xA2, write_unsubscribe(packet, version)
        case Unsuback():
            return 0xB0, write_unsuback(packet, version)
        case Disconnect():
            return 0xE0, write_disconnect(packet, version)
        case Auth():
            return 0xF0, write_auth(packet, version)
        case Pingreq():
            return 0xC0, b""
        case _:
            return 0xD0, b""
