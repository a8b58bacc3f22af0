"""Memory that clients make us keep: what they began to send and do not end, and what they do not read. Floor 3.

Looked at a few times a second, and whenever much came or went, rather than kept in step with every read and write. When
it is too much, those who have been at it longest, or let most pile up, are closed.
"""

import asyncio

from broker.core.errors import BrokerError, Code
from broker.limits import Limits
from broker.net.admission import Admission, OpenConnection
from broker.observe.limited import Limited

LOOK = 0.25
"""Seconds between two looks."""
MANY = 1_000
"""With so many connections it is looked less often: looking stays cheap; doors tell when much comes."""


class Strain:
    """See the module."""

    def __init__(self, admission: Admission, limits: Limits, limited: Limited) -> None:
        self._admission = admission
        self._limits = limits
        self._limited = limited
        self._looks = 0
        admission.on_much = self.look
        self._began: dict[str, tuple[int, int]] = {}  # connection's id -> (look at which it began, bytes at the last)

    async def run(self) -> None:
        """Look, as long as the daemon runs."""
        while True:
            await asyncio.sleep(LOOK * max(1, len(self._admission) // MANY))
            self.look()

    def look(self) -> None:
        """Close whom there is no memory for."""
        self._looks += 1
        arriving: list[tuple[OpenConnection, int]] = []
        unsent: list[tuple[OpenConnection, int]] = []
        for connection in self._admission:
            if size := connection.arriving:
                arriving.append((connection, size))
            if size := connection.unsent:
                unsent.append((connection, size))
        self._note_beginnings(arriving)
        self._admission.looked(self._shed_arriving(arriving), self._shed_unsent(unsent))

    def _note_beginnings(self, arriving: list[tuple[OpenConnection, int]]) -> None:
        before, self._began = self._began, {}
        for connection, size in arriving:
            since, last = before.get(connection.id, (self._looks, 0))
            self._began[connection.id] = (since if size >= last else self._looks, size)

    def _shed_arriving(self, arriving: list[tuple[OpenConnection, int]]) -> int:
        """Returns what is left."""
        limit = self._limits.max_arriving
        total = sum(size for _, size in arriving)
        if total <= limit:
            return total
        detail = f"more than {limit} bytes have not come to their end; send faster, or raise limits.max_arriving"
        for connection, size in sorted(arriving, key=lambda pair: (self._began[pair[0].id][0], -pair[1])):
            self._limited.hit("max_arriving", connection.address, detail)
            connection.dismiss(BrokerError(Code.OVERLOADED, detail))
            total -= size
            if total <= limit:
                break
        return total

    def _shed_unsent(self, unsent: list[tuple[OpenConnection, int]]) -> int:
        """Returns what is left."""
        limit = self._limits.max_unsent
        total = sum(size for _, size in unsent)
        if total <= limit:
            return total
        detail = f"more than {limit} bytes wait for readers that are slow; read faster, or raise limits.max_unsent"
        for connection, size in sorted(unsent, key=lambda pair: -pair[1]):
            self._limited.hit("max_unsent", connection.address, detail)
            connection.abort()
            total -= size
            if total <= limit:
                break
        return total
