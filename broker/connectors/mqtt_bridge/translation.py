"""Messages of the log as another broker hears them, and the other way round, with what keeps loops and doubles out.

A message that leaves carries its id and, in `postroom-via`, the logs that it has been in, this one included. One that
arrives with our own log among them has been here. Pure. Floor 4.
"""

from copy import copy
from dataclasses import dataclass

from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.core.message import Row, made_id
from broker.core.mqtt import ID, VIA, Heard, MessageProperties, passed, user_property

_NAMES = {
    "payload_format": "PayloadFormatIndicator",
    "message_expiry": "MessageExpiryInterval",
    "content_type": "ContentType",
    "response_topic": "ResponseTopic",
    "correlation_data": "CorrelationData",
    "user": "UserProperty",
}
"""Our names and paho's."""


def properties_of(packet_type: int) -> Properties:
    """An empty set of them; paho's class has no types."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]


_EMPTY = properties_of(PacketTypes.PUBLISH)


@dataclass(frozen=True, slots=True)
class Passport:
    """Who sends to whom: the bridge, the epoch of our log, and of the other one if it is a Postroom."""

    bridge: str
    epoch: str
    other: str | None = None

    def leaves(self, heard: Heard) -> bool:
        """May a message go to the other side? Not if this bridge brought it, or it has been there."""
        if heard.bridge == self.bridge:
            return False
        return self.other is None or self.other not in passed(user_property(heard.properties, VIA))

    def stamped(self, heard: Heard, row: Row, now: int) -> MessageProperties:
        """What a message says at the other side. `now` in unix ms."""
        said = heard.properties.copy()
        left = heard.left(now)
        if left is not None:
            said["message_expiry"] = max(0, left)
        user = [pair for pair in said.get("user", ()) if pair[0] != VIA]
        been = user_property(said, VIA)
        user.append((VIA, f"{been},{self.epoch}" if been else self.epoch))
        if user_property(said, ID) is None:
            offset, _, at, _, _ = row
            user.append((ID, made_id(self.epoch, offset, at)))
        said["user"] = user
        return said

    def enters(self, said: MessageProperties) -> bool:
        """May a message come in? Not if it has been here."""
        return self.epoch not in passed(user_property(said, VIA))

    def admitted(self, said: MessageProperties) -> MessageProperties:
        """What a message says here: that it has been there, too."""
        been = user_property(said, VIA)
        if self.other is None or self.other in passed(been):
            return said
        user = [pair for pair in said.get("user", ()) if pair[0] != VIA]
        said["user"] = [*user, (VIA, f"{been},{self.other}" if been else self.other)]
        return said


def written(said: MessageProperties) -> Properties:
    """For paho."""
    # Past its constructor and its look-up of each name, which cost more than all else that is done for a message.
    properties = copy(_EMPTY)
    vars(properties).update([(_NAMES[name], value) for name, value in said.items()])
    return properties


def read(message: MQTTMessage) -> MessageProperties:
    """From paho."""
    if message.properties is None:
        return {}
    known = vars(message.properties)
    said: MessageProperties = {}
    for name, theirs in _NAMES.items():
        if theirs in known:
            said[name] = known[theirs]  # type: ignore[literal-required]
    return said
