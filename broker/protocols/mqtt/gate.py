"""Whether a connection is read now: not while the disk lags behind what it published, nor while its principal
publishes faster than it may. MQTT has no word for it; the socket is simply not read. Floor 4."""

from typing import TYPE_CHECKING

from broker.core.errors import Code

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

LOOK = 1.0
"""Seconds after which it is asked again, if not told otherwise."""


class Gate:
    """See the module. `taken` and `answered` say how many bytes of the connection wait for their commit."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._flow = connection.server.hub.flow
        self._limit = connection.server.hub.limits.max_uncommitted_per_connection
        self._reasons: set[str] = set()
        self._blocked = False
        self._gone = False

    def taken(self, uncommitted: int) -> None:
        """A unit was handed in."""
        if uncommitted > self._limit:
            self.close("backlog")
        principal = self._connection.identified.name
        error = self._flow.pause(principal, self._connection.session)
        if error is None or self._gone:
            return
        if not self._blocked:
            self._blocked = True
            self._flow.blocked += 1
        self.close("rate" if error.code is Code.RATE_LIMITED else "memory")
        self._connection.server.loop.call_later(min(error.retry_after or LOOK, LOOK), self._look)

    def answered(self, uncommitted: int) -> None:
        """Some of it was committed."""
        if not self._reasons:
            return
        if uncommitted <= self._limit // 2:
            self.open("backlog")
        if "memory" in self._reasons:
            self._look()

    def _look(self) -> None:
        """Does it still hold?"""
        if self._gone:
            return
        principal, sender = self._connection.identified.name, self._connection.session
        if "memory" in self._reasons and not self._flow.crowded(principal, sender):
            self.open("memory")
        if "rate" in self._reasons:
            debt = self._flow.debt(principal)
            if debt is None:
                self.open("rate")
            else:
                self._connection.server.loop.call_later(min(debt.retry_after or LOOK, LOOK), self._look)
        if self._blocked and not self._reasons & {"memory", "rate"}:
            self._blocked = False
            self._flow.blocked -= 1

    def close(self, reason: str) -> None:
        """Do not read."""
        if not self._reasons and not self._gone:
            self._connection.hold(reading=False)
        self._reasons.add(reason)

    def open(self, reason: str) -> None:
        """Read, unless there is another reason not to."""
        if reason in self._reasons:
            self._reasons.discard(reason)
            if not self._reasons and not self._gone:
                self._connection.hold(reading=True)

    def lost(self) -> None:
        """The connection is gone."""
        self._gone = True
        if self._blocked:
            self._blocked = False
            self._flow.blocked -= 1
