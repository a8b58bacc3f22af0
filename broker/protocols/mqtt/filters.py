"""What a session has subscribed to, and what that means for a topic. A pure floor."""

from collections.abc import Iterator
from typing import NamedTuple

from broker.core.errors import BrokerError, Code
from broker.core.topic import Trie, check_filter
from broker.protocols.mqtt.codec.fanout import written_ids
from broker.protocols.mqtt.codec.packets import Request
from broker.protocols.mqtt.codec.topics import Share, shared

MAX_TOPICS = 1_000
"""Topics whose meaning is remembered per session, some 250 KB: there are many sessions."""
NOT_LOGGED = ("$queue/", "$share/", "$stream/", "$SYS/")
"""Beginnings of filters that stand for no topics of the log."""


def check_logged(text: str) -> str:
    """Return the filter if it is one of topics of the log. Raises BAD_FILTER."""
    if text.startswith(NOT_LOGGED):
        raise BrokerError(Code.BAD_FILTER, f"no topics of the log begin with {text.partition('/')[0]}/")
    return check_filter(text)


class Subscribed(NamedTuple):
    """One subscription: the filter as sent, `$share/…` included, its options, and its identifier (0: none). `start`:
    where one that is kept goes on to read a stream."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int = 0
    start: str = ""

    @classmethod
    def of(cls, request: Request, qos: int, identifier: int) -> "Subscribed":
        """As it was granted."""
        return cls(request.filter, qos, request.no_local, request.retain_as_published, identifier)

    @property
    def share(self) -> Share | None:
        """Its group, if it is a shared one."""
        return shared(self.filter)


class Wanted(NamedTuple):
    """How a message of a topic is to be delivered, whichever filters matched: once, at the highest QoS, with all
    identifiers. [MQTT-3.3.4-2, 3.3.4-3]"""

    qos: int
    retain_as_published: bool
    own: bytes
    """The identifiers as properties, encoded."""


class Filters:
    """The subscriptions of a session that are its own, or the one of a group."""

    def __init__(self) -> None:
        self._by_filter: dict[str, Subscribed] = {}
        self._trie: Trie[Subscribed] = Trie()
        self._wanted: dict[tuple[str, bool], Wanted | None] = {}
        self.no_local = False
        """Has any of them No Local?"""

    def __len__(self) -> int:
        return len(self._by_filter)

    def __iter__(self) -> Iterator[Subscribed]:
        return iter(list(self._by_filter.values()))

    def get(self, text: str) -> Subscribed | None:
        """The one with exactly this filter."""
        return self._by_filter.get(text)

    def put(self, subscribed: Subscribed) -> None:
        """Add it, in place of one with the same filter. [MQTT-3.8.4-3]"""
        self.remove(subscribed.filter)
        share = subscribed.share
        self._by_filter[subscribed.filter] = subscribed
        self._trie.add(subscribed.filter if share is None else share.filter, subscribed)
        self._changed()

    def remove(self, text: str) -> bool:
        """Take it out; False when there is none."""
        subscribed = self._by_filter.pop(text, None)
        if subscribed is None:
            return False
        share = subscribed.share
        self._trie.remove(text if share is None else share.filter, subscribed)
        self._changed()
        return True

    def _changed(self) -> None:
        self._wanted.clear()
        self.no_local = any(subscribed.no_local for subscribed in self._by_filter.values())

    def wanted(self, topic: str, *, own: bool = False) -> Wanted | None:
        """None: nothing matches. `own`: the session itself published the message. [MQTT-3.8.3-3]"""
        key = (topic, own)
        try:
            return self._wanted[key]
        except KeyError:
            pass
        matching = [found for found in self._trie.match(topic) if not (own and found.no_local)]
        if len(self._wanted) >= MAX_TOPICS:
            self._wanted.clear()
        ids = sorted(found.identifier for found in matching if found.identifier)
        wanted = self._wanted[key] = (
            Wanted(
                max(found.qos for found in matching),
                any(found.retain_as_published for found in matching),
                written_ids(ids) if ids else b"",
            )
            if matching
            else None
        )
        return wanted
