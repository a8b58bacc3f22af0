"""Which topic here is which topic there: the first entry that matches decides, so that no message goes twice. Pure.
Floor 4."""

from collections.abc import Callable, Sequence

from broker.connectors.mqtt_bridge.options import BridgedTopics
from broker.core.topic import matches

MAX_KNOWN = 10_000
"""Topics whose way is remembered, per direction."""
Way = tuple[str, int]
"""The topic on the other side, and the QoS."""


class Mapping:
    """The topics of one bridge."""

    def __init__(self, topics: Sequence[BridgedTopics]) -> None:
        self.outgoing = [entry for entry in topics if entry.goes]
        self.incoming = [entry for entry in topics if entry.comes]
        self._out: dict[str, Way | None] = {}
        self._in: dict[str, Way | None] = {}

    def out(self, topic: str) -> Way | None:
        """Where a message of ours goes; None when it stays here."""
        return _known(self._out, topic, self._find_out)

    def into(self, topic: str) -> Way | None:
        """Where a message of theirs comes to; None when nobody asked for it."""
        return _known(self._in, topic, self._find_in)

    def _find_out(self, topic: str) -> Way | None:
        for entry in self.outgoing:
            if matches(entry.local, topic):
                return _exchanged(topic, entry.local_prefix, entry.remote_prefix, entry.qos)
        return None

    def _find_in(self, topic: str) -> Way | None:
        for entry in self.incoming:
            if matches(entry.remote, topic):
                return _exchanged(topic, entry.remote_prefix, entry.local_prefix, entry.qos)
        return None


def _exchanged(topic: str, prefix: str, other: str, qos: int) -> Way | None:
    """`plant/#` matches `plant` as well, which lacks the end of the prefix `plant/`."""
    found = other + topic[len(prefix) :] if topic.startswith(prefix) else other.removesuffix("/")
    return (found, qos) if found else None


def _known(known: dict[str, Way | None], topic: str, find: Callable[[str], Way | None]) -> Way | None:
    try:
        return known[topic]
    except KeyError:
        if len(known) >= MAX_KNOWN:
            known.clear()
        way = known[topic] = find(topic)
        return way
