"""What all connections share of the work of encoding: beginnings of packets, and messages with properties. Floor 4."""

from typing import cast

from broker.core.message import Row
from broker.core.mqtt import Heard
from broker.protocols.mqtt.codec.fanout import Fanout
from broker.protocols.mqtt.codec.packets import Properties
from broker.protocols.mqtt.codec.publication import publish_start
from broker.protocols.mqtt.codec.topics import write_name

MAX_STARTS = 10_000
MAX_HEARD = 1_000
MAX_HEARD_BYTES = 16 << 20
"""Of bodies; they are in memory twice, as a row and encoded."""


class Encoded:
    """See the module; each is encoded once."""

    def __init__(self) -> None:
        self._starts: dict[tuple[int, str, int], bytes] = {}
        self._heard: dict[int, tuple[Row, Heard, Fanout]] = {}
        self._size = 0
        self.oversized = 0
        """Messages that were too large for a client."""

    def start(self, head: int, topic: str, size: int) -> bytes:
        """A packet's beginning up to its topic, `size` bytes before its end."""
        key = (head, topic, size)
        start = self._starts.get(key)
        if start is None:
            if len(self._starts) >= MAX_STARTS:
                self._starts.clear()
            start = self._starts[key] = publish_start(head, write_name(topic), size)
        return start

    def heard(self, row: Row, now: int) -> tuple[Heard, Fanout]:
        """The same message to several subscribers is looked at once."""
        found = self._heard.get(id(row))
        if found is not None:
            return found[1:]
        if len(self._heard) >= MAX_HEARD or self._size >= MAX_HEARD_BYTES:
            self.forget()
        heard, fanout = encoded(row, row[1], now)
        self._heard[id(row)] = (row, heard, fanout)
        self._size += len(row[4])
        return heard, fanout

    def forget(self) -> None:
        """Time has passed: what was left of an expiry is less now."""
        self._heard.clear()
        self._size = 0


def encoded(row: Row, topic: str, now: int) -> tuple[Heard, Fanout]:
    """A message under this topic, at this time (unix ms)."""
    heard = Heard(row)
    properties: Properties = cast(Properties, heard.properties)
    left = heard.left(now)
    if left is not None:
        properties = {**properties, "message_expiry": max(0, left)}
    return heard, Fanout(topic, row[4], properties)
