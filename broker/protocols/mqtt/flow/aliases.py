"""Topic aliases (§3.3.2.3.4): numbers that stand for topics, each way for itself, as long as the connection."""

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.error import MqttError, forbidden
from broker.protocols.mqtt.codec.packets import Publish


class AliasesIn:
    """The sender's. `maximum` is the highest that we said we take. [MQTT-3.3.2-10, 3.3.2-12]"""

    __slots__ = ("_topics", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._topics: dict[int, str] = {}

    def topic(self, packet: Publish) -> str:
        """The topic that is meant; an alias that comes with one is kept. Raises TOPIC_ALIAS_INVALID over the maximum,
        PROTOCOL_ERROR for one that was never set. [MQTT-3.3.2-9, 3.2.2-17, 3.2.2-18]"""
        if not packet.properties or (alias := packet.properties.get("topic_alias")) is None:
            return packet.topic
        if alias > self.maximum:
            raise MqttError(
                *(Reason.TOPIC_ALIAS_INVALID, f"topic alias {alias}, the maximum is {self.maximum}"), "MQTT-3.3.2-9"
            )
        if packet.topic:
            self._topics[alias] = packet.topic
            return packet.topic
        try:
            return self._topics[alias]
        except KeyError:
            raise forbidden(f"topic alias {alias} stands for nothing") from None


class AliasesOut:
    """Ours. `maximum` is the highest that the receiver takes, 0 for none; when all are taken, the topic that was not
    used for longest gives its own away. [MQTT-3.1.2-26, 3.1.2-27, 3.3.2-11]"""

    __slots__ = ("_aliases", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._aliases: dict[str, int] = {}

    def alias(self, topic: str) -> tuple[int, bool]:
        """The alias to send the topic with, and whether the topic must be sent too; (0, True) without aliases."""
        aliases = self._aliases
        if (alias := aliases.pop(topic, 0)) != 0:
            aliases[topic] = alias
            return alias, False
        if len(aliases) < self.maximum:
            alias = len(aliases) + 1
        elif aliases:
            alias = aliases.pop(next(iter(aliases)))
        else:
            return 0, True
        aliases[topic] = alias
        return alias, True
