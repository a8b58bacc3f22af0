"""Whether what a connection publishes is taken now: not while the disk lags behind it, nor while its principal
publishes faster than it may. MQTT has no word for it.

Memory is short for as long as the disk needs, so that the socket is simply not read meanwhile. A rate may hold for
long: then packets are put aside, but what the client acknowledges goes on; only when much was put aside is the socket
not read. Floor 4.
"""

from typing import TYPE_CHECKING

from broker.core.errors import Code

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

LOOK = 1.0
"""Seconds after which it is asked again, if not told otherwise."""


class Gate:
    """See the module. `taken` and `answered` say how many bytes of the connection wait for their commit; `shut`: a rate
    holds, packets are put aside."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._flow = connection.server.hub.flow
        self._limit = connection.server.hub.limits.max_uncommitted_per_connection
        self._reasons: set[str] = set()
        self._blocked = False
        self._looking = False
        self._gone = False
        self.shut = False

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
        if error.code is Code.RATE_LIMITED:
            self.shut = True
        else:
            self.close("memory")
        self._look_again(error.retry_after)

    def answered(self, uncommitted: int) -> None:
        """Some of it was committed."""
        if not self._reasons:
            return
        if uncommitted <= self._limit // 2:
            self.open("backlog")
        if "memory" in self._reasons:
            self._look()

    def _look_again(self, seconds: float | None) -> None:
        if not self._looking:
            self._looking = True
            self._connection.server.loop.call_later(min(seconds or LOOK, LOOK), self._on_time)

    def _on_time(self) -> None:
        self._looking = False
        self._look()

    def _look(self) -> None:
        """Does it still hold?"""
        if self._gone:
            return
        principal, sender = self._connection.identified.name, self._connection.session
        if "memory" in self._reasons:
            if self._flow.crowded(principal, sender):
                self._look_again(LOOK)  # it may have nothing of its own on the way that would be answered
            else:
                self.open("memory")
        if self.shut:
            self._reopen(principal)
        if self._blocked and not self.shut and "memory" not in self._reasons:
            self._blocked = False
            self._flow.blocked -= 1

    def _reopen(self, principal: str) -> None:
        """If nothing is owed any more."""
        debt = self._flow.debt(principal)
        if debt is not None:
            self._look_again(debt.retry_after)
            return
        self.shut = False
        self._connection.incoming.reopen()
        self.open("aside")

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
