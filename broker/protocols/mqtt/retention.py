"""Retained messages on disk and in memory together: taken up at start, swept when they have expired, deleted by
operators. Floor 4."""

import logging
from collections.abc import Iterator, Sequence

from broker.core.errors import BrokerError
from broker.core.message import Row
from broker.engine.base import Receipt, Set, Unit
from broker.hub import Hub
from broker.protocols.mqtt.kept import RETAINED, retained_row
from broker.protocols.mqtt.retained import Retained

logger = logging.getLogger(__name__)
AT_ONCE = 10_000
"""Messages that are deleted at once."""


class Retention:
    """See the module."""

    def __init__(self, hub: Hub, retained: Retained) -> None:
        self._hub = hub
        self.retained = retained

    async def load(self) -> None:
        """What was kept."""
        for key, value, revision in await self._hub.engine.items(RETAINED):
            row, owner = retained_row(key, value)
            self.retained.put(row, revision, owner)

    def sweep(self) -> None:
        """Delete those that have expired, each by itself and only as it is now: one that takes its place meanwhile
        stays, whichever of the two is committed first."""
        try:
            for topic, revision in self.retained.expired(int(self._hub.wall() * 1000))[:AT_ONCE]:
                self._hub.commit(self._deletion([topic], revision))
        except BrokerError as error:
            logger.info("expired retained messages are deleted later", extra={"error": error.text})

    def matched(self, text: str) -> Iterator[str]:
        """The topics of those that a filter matches, in no order. Not over a change."""
        return self.retained.matched(text)

    def show(self, topic: str) -> tuple[Row, str]:
        """The one of this topic, and who published it. Raises KeyError."""
        kept = self.retained.get(topic)
        return kept.row, kept.owner

    async def delete(self, text: str) -> int:
        """Delete all of now that a filter matches, and say how many. Raises what committing does; then some may be
        gone."""
        topics = list(self.retained.matched(text))
        for at in range(0, len(topics), AT_ONCE):
            await self._hub.committed(self._deletion(topics[at : at + AT_ONCE]))
        return len(topics)

    def _deletion(self, topics: Sequence[str], expect: int | None = None) -> Unit:
        """They go from memory with their commit, in its order."""

        def done(receipt: Receipt) -> None:
            if receipt.error is None:
                for topic in topics:
                    self.retained.put((0, topic, 0, None, b""))

        return Unit(sets=[Set(RETAINED + topic, None, expect) for topic in topics], sender=self, done=done)
