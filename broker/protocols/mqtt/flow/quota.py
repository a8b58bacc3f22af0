"""How much a sender may have in flight to us (§3.3.4, §4.9): our Receive Maximum, kept."""

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.error import MqttError


class Quota:
    """Of one connection: what it sent with QoS 1 and has no PUBACK for, and with QoS 2 and no PUBCOMP, nor a PUBREC
    that refuses. `maximum` is what CONNACK told; before MQTT 5 nobody is told, so it should be the highest, 65,535."""

    __slots__ = ("_qos_1", "_qos_2", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._qos_1 = 0
        self._qos_2: set[int] = set()

    def take(self, qos: int, packet_id: int) -> None:
        """A PUBLISH came. One of QoS 2 that comes twice counts once. Raises RECEIVE_MAXIMUM_EXCEEDED. [MQTT-3.3.4-8]"""
        if not qos or (qos == 2 and packet_id in self._qos_2):
            return
        if self._qos_1 + len(self._qos_2) >= self.maximum:
            raise MqttError(
                *(Reason.RECEIVE_MAXIMUM_EXCEEDED, f"more than {self.maximum} messages without an answer"),
                "MQTT-3.3.4-8",
            )
        if qos == 1:
            self._qos_1 += 1
        else:
            self._qos_2.add(packet_id)

    def give_1(self, count: int = 1) -> None:
        """So many PUBACKs were sent."""
        self._qos_1 -= count

    def give_2(self, packet_id: int) -> None:
        """A PUBCOMP was sent, or a PUBREC that refuses."""
        self._qos_2.discard(packet_id)
