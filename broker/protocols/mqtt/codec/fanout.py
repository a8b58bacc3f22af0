"""One message for many subscribers: encoded once per variant, with only what differs put in between.

A PUBLISH is cut where the packet identifier goes. The pieces are shared by all who receive the message in the same
version, QoS and RETAIN, so that one more subscriber costs one concatenation.
"""

from collections.abc import Sequence
from functools import lru_cache

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.error import forbidden
from broker.protocols.mqtt.codec.fields import write_packet_id, write_text, write_two, write_varint
from broker.protocols.mqtt.codec.packets import NONE, V5, Properties
from broker.protocols.mqtt.codec.properties import write_listed
from broker.protocols.mqtt.codec.publication import UNNAMED, publish_head, publish_start
from broker.protocols.mqtt.codec.topics import write_name


class Fanout:
    """A message that goes out now. `properties` are those that all receive alike: no topic alias, no subscription
    identifiers, and of the expiry what is left. Raises MqttError where the protocol cannot carry it."""

    __slots__ = ("_ends", "_payload", "_pieces", "_shared", "_topic")

    def __init__(self, topic: str, payload: bytes, properties: Properties = NONE) -> None:
        self._topic = write_name(topic)
        self._payload = payload
        self._shared = write_listed(properties, Kind.PUBLISH) if properties else b""
        self._ends: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self._pieces: dict[tuple[int, int, bool, int], tuple[bytes, bytes, bytes]] = {}

    def ends(self, version: int, qos: int, retain: bool = False) -> tuple[bytes, bytes]:
        """What goes before and after the packet identifier; with QoS 0 the two make the packet. Take them once and
        use them for every subscriber of the variant."""
        key = (version, publish_head(qos, retain))
        if (ends := self._ends.get(key)) is None:
            start, length, rest = self._cut(*key)
            ends = self._ends[key] = (start, length + rest)
        return ends

    def packet(
        self,
        version: int,
        qos: int,
        retain: bool = False,
        packet_id: int = 0,
        *,
        dup: bool = False,
        alias: int = 0,
        named: bool = True,
        own: bytes = b"",
    ) -> bytes:
        """The packet for one subscriber who needs more than an identifier: in MQTT 5 a topic `alias` (0 is none;
        `named` says whether the topic is there too, as it must be at first) and `own` properties, see `written_ids`."""
        if alias:
            own = b"\x23" + write_two(alias) + own
        if (own and version != V5) or not (named or alias):
            raise forbidden("an alias or properties before MQTT 5, or no topic and no alias")
        key = (version, publish_head(qos, retain, dup), named, len(own))
        if (pieces := self._pieces.get(key)) is None:
            pieces = self._pieces[key] = self._cut(*key)
        start, length, rest = pieces
        return b"".join((start, write_packet_id(packet_id) if qos else b"", length, own, rest))

    def _cut(self, version: int, head: int, named: bool = True, own: int = 0) -> tuple[bytes, bytes, bytes]:
        """What goes before the identifier, the length of the properties, and what goes after the subscriber's own."""
        topic, rest = self._topic if named else UNNAMED, self._payload
        length = b""
        if version == V5:
            length = write_varint(own + len(self._shared))
            rest = self._shared + rest
        size = (2 if head & 6 else 0) + len(length) + own + len(rest)
        return publish_start(head, topic, size), length, rest


def written_ids(subscription_ids: Sequence[int]) -> bytes:
    """The subscription identifiers of one subscriber as its own properties, to be kept as long as they hold."""
    return write_listed({"subscription_ids": subscription_ids}, Kind.PUBLISH)


def written_user(name: str, value: str) -> bytes:
    """A user property, likewise; the same names come again and again."""
    return _start_of_user(name) + write_text(value)


@lru_cache(64)
def _start_of_user(name: str) -> bytes:
    return b"\x26" + write_text(name)
