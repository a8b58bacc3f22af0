"""Bytes that wait in the queues of sessions and groups, of each principal and in all: bounded, although each queue is
within its own cap. Floor 4.

Nobody adds up all sessions per message: a piece of them is looked at every second, and what they held when they were
looked at last is added up. So a bound may be passed for as long as a round takes, a minute with 100,000 sessions. Then
the largest backlogs are cut to one level, their oldest messages first, and that is counted: who has little waiting
keeps it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

from broker.core.errors import BrokerError
from broker.hub import Hub
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.sessions import Sessions

logger = logging.getLogger(__name__)
PIECE = 2_000
"""Queues that are looked at at once."""
LEFT = 0.9
"""Of a bound that was passed so much is left, so that not every next message passes it again."""
SHARED = ""
"""Whose a group's queue is: it counts in all alone."""


class Backlogs:
    """See the module."""

    def __init__(self, hub: Hub, options: MqttOptions, sessions: Sessions) -> None:
        self._hub = hub
        self._options = options
        self._sessions = sessions
        self._sizes: dict[str, tuple[str, int]] = {}  # queue -> whose it is, and bytes when it was looked at
        self._seen: set[str] = set()  # in this round
        self._round: Iterator[tuple[str, str]] = iter(())
        self._by_principal: Counter[str] = Counter()
        self._cutting: asyncio.Task[None] | None = None
        self.size = 0
        """Bytes in all."""
        self.dropped = 0
        """Messages that were cut off."""

    def look(self) -> None:
        """At the next piece; about every second."""
        piece = list(islice(self._round, PIECE))
        for queue, principal in piece:
            with suppress(BrokerError):  # it has no queue
                self._note(queue, principal, self._hub.engine.weight(queue)[1])
        if len(piece) < PIECE:
            self._end_round()
        if self._cutting is None or self._cutting.done():
            self._cutting = self._cut_what_is_over({principal for _, principal in piece})

    def _note(self, queue: str, principal: str, size: int) -> None:
        self._seen.add(queue)
        whose, before = self._sizes.pop(queue, (principal, 0))
        self._add(whose, -before)
        if size:
            self._sizes[queue] = (principal, size)
            self._add(principal, size)

    def _add(self, principal: str, size: int) -> None:
        self.size += size
        self._by_principal[principal] += size
        if not self._by_principal[principal]:
            del self._by_principal[principal]

    def _end_round(self) -> None:
        """Forget queues that are gone, and begin again."""
        for queue in self._sizes.keys() - self._seen:
            principal, size = self._sizes.pop(queue)
            self._add(principal, -size)
        self._seen.clear()
        sessions, groups = self._sessions.all(), list(self._sessions.groups.names())
        own = ((session.queue, session.principal.name) for session in sessions if session.own is not None)
        self._round = (pair for pairs in (own, ((name, SHARED) for name in groups)) for pair in pairs)

    def _cut_what_is_over(self, principals: Iterable[str]) -> asyncio.Task[None] | None:
        options = self._options
        if self.size > options.queued_bytes_in_all:
            queues, limit, who, setting = dict(self._sizes), options.queued_bytes_in_all, "all", "queued_bytes_in_all"
        else:
            limit, setting = options.queued_bytes_per_principal, "queued_bytes_per_principal"
            who = next((name for name in principals if name != SHARED and self._by_principal[name] > limit), SHARED)
            if who == SHARED:
                return None
            queues = {queue: found for queue, found in self._sizes.items() if found[0] == who}
        logger.warning(
            "the oldest messages of MQTT sessions are dropped", extra={"of": who, "limit": f"mqtt.{setting}"}
        )
        return asyncio.get_running_loop().create_task(self._cut(queues, int(limit * LEFT)))

    async def _cut(self, queues: dict[str, tuple[str, int]], room: int) -> None:
        """To the level at which they fit in."""
        level = fair_level([size for _, size in queues.values()], room)
        for queue, (principal, size) in queues.items():
            if size > level:
                with suppress(BrokerError):  # it is gone, or the disk is full
                    self.dropped += await self._hub.engine.trim(queue, level)
                    self._note(queue, principal, self._hub.engine.weight(queue)[1])

    async def stop(self) -> None:
        """Wait for what is under way."""
        if self._cutting is not None:
            await asyncio.wait([self._cutting])


def fair_level(sizes: Iterable[int], room: int) -> int:
    """The level to which the largest must be cut so that all fit into `room`, and the smaller stay whole."""
    left, rising = room, sorted(sizes)
    for i, size in enumerate(rising):
        share = left // (len(rising) - i)
        if size > share:
            return share
        left -= size
    return max(rising, default=0)
