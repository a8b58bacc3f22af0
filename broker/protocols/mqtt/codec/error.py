"""What is wrong with bytes from a peer, or with a packet that cannot be put into bytes."""

from collections.abc import Sequence

from broker.core.errors import BrokerError, Code
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import Packet

_CODES = {
    Reason.UNSUPPORTED_PROTOCOL_VERSION: Code.UNSUPPORTED_VERSION,
    Reason.PACKET_TOO_LARGE: Code.FRAME_TOO_LARGE,
    Reason.BAD_USER_NAME_OR_PASSWORD: Code.UNAUTHENTICATED,
    Reason.KEEP_ALIVE_TIMEOUT: Code.TIMEOUT,
    Reason.SESSION_TAKEN_OVER: Code.CONFLICT,
}
"""What other doors and the logs call it; all else is no packet of this protocol."""


class MqttError(BrokerError):
    """Ends the connection. `reason` is for CONNACK or DISCONNECT; `rules` are the normative statements of MQTT 5.0
    that were broken, without brackets; `before` are the packets that were read before it and are still to be served."""

    def __init__(self, reason: Reason, detail: str, *rules: str) -> None:
        self.reason = reason
        self.rules = rules
        self.before: Sequence[Packet] = ()
        super().__init__(_CODES.get(reason, Code.BAD_FRAME), " ".join((detail, *(f"[{rule}]" for rule in rules))))

    @property
    def text(self) -> str:
        """The detail alone: the table's sentences are those of other protocols, MQTT has its reasons for them."""
        return self.detail or super().text


def malformed(detail: str, *rules: str) -> MqttError:
    """The bytes do not parse (0x81)."""
    return MqttError(Reason.MALFORMED_PACKET, detail, *rules)


def forbidden(detail: str, *rules: str) -> MqttError:
    """They parse and say what may not be said (0x82)."""
    return MqttError(Reason.PROTOCOL_ERROR, detail, *rules)
