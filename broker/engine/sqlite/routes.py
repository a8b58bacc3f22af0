"""Step 3 of the journey: which sinks get which rows of a commit. A topic's sinks are found once and kept. Floor 2."""

import logging
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Protocol

from broker.core.message import Row
from broker.core.topic import Trie

logger = logging.getLogger(__name__)
MAX_KEPT = 200_000
_topic_of = itemgetter(1)


class Sink(Protocol):
    """Something that takes the rows of a commit that match its filters: a queue, a stream reader, a tap. One that is
    `passing` needs nothing to be stored for it, and takes rows that are in no log too: their offset is 0."""

    @property
    def passing(self) -> bool:
        """See above."""

    def publish(self, rows: Sequence[Row]) -> None:
        """Rows in order, at least one; called at most once per commit."""


class _Kept(dict[str, tuple[Sink, ...]]):
    """Topic → its sinks, each once; equal tuples are one object."""

    def __init__(self, trie: Trie[Sink]) -> None:
        super().__init__()
        self._trie = trie
        self._same: dict[tuple[Sink, ...], tuple[Sink, ...]] = {}

    def __missing__(self, topic: str) -> tuple[Sink, ...]:
        if len(self) >= MAX_KEPT:
            self.clear()
        sinks = tuple(dict.fromkeys(self._trie.match(topic)))
        found = self[topic] = self._same.setdefault(sinks, sinks)
        return found


class Routes:
    """Filters → sinks, and the sinks of every topic seen lately."""

    def __init__(self) -> None:
        self._trie: Trie[Sink] = Trie()
        self._kept = _Kept(self._trie)
        self.used = 0

    def add(self, filters: Sequence[str], sink: Sink) -> None:
        """From now on rows that match go to `sink`."""
        for text in filters:
            self._trie.add(text, sink)
        self.used += 1
        self._kept = _Kept(self._trie)

    def remove(self, filters: Sequence[str], sink: Sink) -> None:
        """No more."""
        for text in filters:
            self._trie.remove(text, sink)
        self.used -= 1
        self._kept = _Kept(self._trie)

    def of(self, topic: str) -> tuple[Sink, ...]:
        """The sinks of a topic, each once."""
        return self._kept[topic]

    def keeps(self, topic: str) -> bool:
        """Must a message of this topic be stored for somebody?"""
        return not all(sink.passing for sink in self._kept[topic])

    def dispatch(self, rows: Sequence[Row]) -> None:
        """Give every sink its rows of this commit."""
        for sink, part in self._parts(rows):
            _give(sink, part)

    def pass_by(self, rows: Sequence[Row]) -> None:
        """Give rows that are in no log to those who take such."""
        for sink, part in self._parts(rows):
            if sink.passing:
                _give(sink, part)

    def _parts(self, rows: Sequence[Row]) -> Iterable[tuple[Sink, Sequence[Row]]]:
        kept = self._kept
        routes = {id(sinks): sinks for sinks in map(kept.__getitem__, set(map(_topic_of, rows)))}
        if len(routes) == 1:
            return zip(kept[rows[0][1]], repeat(rows))
        boxes: dict[Sink, list[Row]] = {sink: [] for sinks in routes.values() for sink in sinks}
        adders = {key: [boxes[sink].append for sink in sinks] for key, sinks in routes.items()}
        for row in rows:
            for add in adders[id(kept[row[1]])]:
                add(row)
        return boxes.items()


def _give(sink: Sink, rows: Sequence[Row]) -> None:
    """One sink that fails must not stop the others, nor the writer."""
    try:
        sink.publish(rows)
    except Exception:
        logger.exception("a sink failed to take messages")
