"""Retained messages, on disk and in memory together: one store for all who publish, doors and connectors alike.

What a unit retains is among its key/value writes, so that it is kept with the message or not at all. Floor 2.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgpack

from broker.core.errors import BrokerError
from broker.core.message import Draft, Row
from broker.core.retained import FullError, Retained
from broker.engine.base import Engine, Receipt, Set, Unit
from broker.limits import Limits
from broker.observe.limited import Limited

logger = logging.getLogger(__name__)
KEYS = "mqtt/retained/"
"""`mqtt/retained/TOPIC` is the retained message of a topic, and whose it is; no client reads it there."""
SWEEP = 60.0
"""Seconds between two sweeps."""
AT_ONCE = 10_000
"""Messages that are deleted at once."""


class Retaining(NamedTuple):
    """What a unit retains: its message's index, or -1 for one that is not in the unit, and its write's; whose it is."""

    message: int
    write: int
    draft: Draft
    owner: str


class RetainedMessages:
    """See the module. `wall` gives unix seconds."""

    def __init__(self, engine: Engine, limits: Limits, limited: Limited, wall: Callable[[], float]) -> None:
        self._engine = engine
        self._limited = limited
        self._wall = wall
        self._retained = Retained(
            limits.retained_messages,
            limits.retained_bytes,
            limits.retained_messages_per_principal,
            limits.retained_bytes_per_principal,
        )

    async def load(self) -> None:
        """At start: what was kept."""
        for key, value, revision in await self._engine.items(KEYS):
            offset, at, meta, body, owner = msgpack.unpackb(value)
            self._retained.put((offset, key.removeprefix(KEYS), at, meta, body), revision, owner)

    # What publishers do

    def check(self, draft: Draft, owner: str) -> None:
        """Is there room for it? What waits for the disk is not counted yet. Raises QUOTA_EXCEEDED."""
        try:
            self._retained.check(*draft, owner)
        except FullError as error:
            self._limited.hit(error.limit, error.who, error.detail)
            raise

    def keep(self, sets: list[Set], draft: Draft, message: int, owner: str) -> Retaining:
        """It becomes the retained message of its topic, or deletes it if it is empty, with the commit of these writes,
        to which its own is added; `committed` is to be told."""
        topic, meta, body = draft
        value = msgpack.packb((0, int(self._wall() * 1000), meta, body, owner)) if body else None
        sets.append(Set(KEYS + topic, value))
        return Retaining(message, len(sets) - 1, draft, owner)

    def committed(self, receipt: Receipt, kept: Iterable[Retaining]) -> None:
        """Their unit is on disk."""
        for message, write, (topic, meta, body), owner in kept:
            offset = receipt.place(message) if message >= 0 else None
            self._retained.put((offset or 0, topic, receipt.at, meta, body), receipt.revisions[write], owner)

    # What readers and operators see

    def __len__(self) -> int:
        return len(self._retained)

    @property
    def size(self) -> int:
        """Bytes that all of them take."""
        return self._retained.size

    def matching(self, text: str, now: int) -> list[Row]:
        """Those that a filter matches and that have not expired (`now` in unix ms)."""
        return self._retained.matching(text, now)

    def matched(self, text: str) -> Iterator[str]:
        """The topics of those that a filter matches, expired or not, in no order. Not over a change."""
        return self._retained.matched(text)

    def show(self, topic: str) -> tuple[Row, str]:
        """The one of this topic, and who published it. Raises KeyError."""
        kept = self._retained.get(topic)
        return kept.row, kept.owner

    # How they end

    def deletions(self, text: str) -> list[Unit]:
        """What deletes all of now that a filter matches, a message by each write."""
        topics = list(self._retained.matched(text))
        return [self._deletion(topics[at : at + AT_ONCE]) for at in range(0, len(topics), AT_ONCE)]

    async def watch(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP)
            self.sweep()

    def sweep(self) -> None:
        """Delete those that have expired, each by itself and only as it is now: one that takes its place meanwhile
        stays, whichever of the two is committed first."""
        try:
            for topic, revision in self._retained.expired(int(self._wall() * 1000))[:AT_ONCE]:
                self._engine.commit(self._deletion([topic], revision))
        except BrokerError as error:
            logger.info("expired retained messages are deleted later", extra={"error": error.text})

    def _deletion(self, topics: Sequence[str], expect: int | None = None) -> Unit:
        """They go from memory with their commit, in its order."""

        def done(receipt: Receipt) -> None:
            if receipt.error is None:
                for topic in topics:
                    self._retained.put((0, topic, 0, None, b""))

        return Unit(sets=[Set(KEYS + topic, None, expect) for topic in topics], sender=self, done=done)
