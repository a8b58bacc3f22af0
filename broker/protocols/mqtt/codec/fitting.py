"""Packets as small as their receiver wants them: Maximum Packet Size and Request Problem Information (§3.1.2.11)."""

from dataclasses import replace
from typing import cast

from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import Ack, Auth, Connack, Disconnect, Properties, Publish, Suback, Unsuback

Answer = Ack | Auth | Connack | Disconnect | Suback | Unsuback
"""The packets that may say in words what went wrong."""


def encode_fitting(packet: Answer | Publish, version: int, maximum: int = 0, *, problems: bool = True) -> bytes | None:
    """The packet in bytes, or None when it is over the `maximum` of its receiver (0: none was told) and must not be
    sent; the sender of a PUBLISH then goes on as if it had been [MQTT-3.1.2-24, 3.1.2-25].

    An answer gives up its user properties first and its reason string then; without `problems` it has neither, but in
    CONNACK and DISCONNECT [MQTT-3.1.2-29]. Raises MqttError as `encode` does.
    """
    if isinstance(packet, Publish):
        return _fitting(encode(packet, version), 1, maximum)
    if not problems and not isinstance(packet, Connack | Disconnect):
        packet = _without(packet, "user", "reason_string")
    count = len(packet.packet_ids) if isinstance(packet, Ack) else 1
    for spared in ((), ("user",), ("user", "reason_string")):
        written = _fitting(encode(_without(packet, *spared), version), count, maximum)
        if written is not None:
            return written
    return None


def _fitting(written: bytes, count: int, maximum: int) -> bytes | None:
    """`written` are `count` packets of one size."""
    return written if not maximum or len(written) <= maximum * count else None


def _without(packet: Answer, *names: str) -> Answer:
    if not packet.properties.keys() & set(names):
        return packet
    kept = cast(Properties, {name: value for name, value in packet.properties.items() if name not in names})
    if isinstance(packet, Ack):
        return packet._replace(properties=kept)
    return replace(packet, properties=kept)
