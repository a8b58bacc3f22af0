"""The last packet to a client: why its connection ends, as far as its version has words for it. [MQTT-4.13.1-1]"""

from broker.core.errors import BrokerError
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import NONE, V5, Connack, Disconnect, Properties
from broker.protocols.mqtt.codec.reasons import FROM_SERVER

MAX_REASON = 1_000
"""Characters of a reason string."""
_UNSPEAKABLE = (Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR, Reason.PACKET_TOO_LARGE)
"""What a CONNACK of older versions has no word for, and which ends the connection there without one."""


def farewell(error: BrokerError, version: int, *, begun: bool) -> Connack | Disconnect | None:
    """DISCONNECT, or the CONNACK that refuses when none was sent; None where the version has no word for it. `version`
    is 0 when CONNECT was not understood."""
    reason = error.reason if isinstance(error, MqttError) else Reason(error.kind.mqtt)
    properties: Properties = {"reason_string": error.text[:MAX_REASON]} if version == V5 else NONE
    if begun:
        return Disconnect(_told(reason, Kind.DISCONNECT), properties) if version == V5 else None
    if reason is Reason.UNSUPPORTED_PROTOCOL_VERSION:
        return Connack(reason)
    if not version or (version != V5 and reason in _UNSPEAKABLE):
        return None
    if reason is Reason.MESSAGE_RATE_TOO_HIGH:  # which is not for a CONNACK
        reason = Reason.CONNECTION_RATE_EXCEEDED
    return Connack(_told(reason, Kind.CONNACK), False, properties)


def _told(reason: Reason, kind: Kind) -> Reason:
    return reason if reason in FROM_SERVER[kind] else Reason.UNSPECIFIED_ERROR
