"""Step 3 of the journey: which sinks get which rows of a commit. A topic's sinks are found once and kept. Floor 2."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Protocol

from broker.core.message import Row
from broker.core.topic import Trie

MAX_KEPT = 200_000
_topic_of = itemgetter(1)


class Sink(Protocol):
    """Something that takes the rows of a commit that match its filters: a queue, a stream reader, a tap."""

    def publish(self, rows: Sequence[Row]) -> None:
        """Rows in order, at least one; called at most once per commit."""


class Routes:
    """Filters → sinks, and the sinks of every topic seen lately. `memory` topics reach only sinks added as `live`."""

    def __init__(self) -> None:
        self._trie: Trie[Sink] = Trie()
        self._kept: dict[str, tuple[Sink, ...]] = {}
        self._same: dict[tuple[Sink, ...], tuple[Sink, ...]] = {}
        self.used = 0

    def add(self, filters: Sequence[str], sink: Sink) -> None:
        """From now on rows that match go to `sink`."""
        for text in filters:
            self._trie.add(text, sink)
        self.used += 1
        self._forget()

    def remove(self, filters: Sequence[str], sink: Sink) -> None:
        """No more."""
        for text in filters:
            self._trie.remove(text, sink)
        self.used -= 1
        self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        self._same.clear()

    def of(self, topic: str) -> tuple[Sink, ...]:
        """The sinks of a topic, each once."""
        found = self._kept.get(topic)
        if found is None:
            if len(self._kept) >= MAX_KEPT:
                self._forget()
            sinks = tuple(dict.fromkeys(self._trie.match(topic)))
            found = self._kept[topic] = self._same.setdefault(sinks, sinks)
        return found

    def dispatch(self, rows: Sequence[Row]) -> None:
        """Give every sink its rows of this commit."""
        topics = set(map(_topic_of, rows))
        routes = {topic: self.of(topic) for topic in topics}
        if len({id(sinks) for sinks in routes.values()}) == 1:
            for sink in routes[rows[0][1]]:
                sink.publish(rows)
            return
        boxes: dict[Sink, list[Row]] = {sink: [] for sinks in routes.values() for sink in sinks}
        adders = {topic: [boxes[sink].append for sink in sinks] for topic, sinks in routes.items()}
        for row in rows:
            for add in adders[row[1]]:
                add(row)
        for sink, part in boxes.items():
            sink.publish(part)
