"""Whether what a connection publishes is taken now: PROTOCOL.md § When publishing is slowed.

Memory is short for as long as the disk needs, so that the socket is simply not read meanwhile. A rate may hold for
long: then publishes are put aside and everything else, settles above all, goes on; only when much was put aside is the
socket not read. What lasts is told to clients that understand it. Floor 4.
"""

from typing import TYPE_CHECKING

from broker.core.errors import BrokerError, Code
from broker.protocols.native import wire
from broker.protocols.native.wire import Frame

if TYPE_CHECKING:
    from broker.protocols.native.session import Session

HELD = frozenset((wire.PUBLISH, wire.UNIT, wire.GOODBYE))
"""Frames that wait: those that publish, and the one that must come last."""
MAX_ASIDE = 64 << 10
"""Bytes put aside after which the socket is not read."""
LASTING = 1.0
"""Seconds after which a client is told that it is slowed, and after which that it is no longer."""
FEATURE = "slowed"


class Gate:
    """See the module. `shut`: publishes are put aside; `aside`: so many bytes of them."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._flow = session.hub.flow
        self._limits = session.hub.limits
        self.shut = False
        self.tells = False  # the client understands SLOWED
        self._aside: list[Frame] = []
        self.aside = 0
        self._reasons: set[str] = set()  # not to read
        self._reason: BrokerError | None = None  # to slow this client, beside its own backlog
        self._since = self._until = -LASTING  # of the time in which it was slowed again and again
        self._told = self._looking = False

    # What the session tells

    def taken(self, uncommitted: int) -> None:
        """A unit was handed in; so many bytes of this connection wait for their commit now."""
        self.waits(uncommitted)
        error = self._flow.pause(self._session.counted, self._session.sender)
        if error is None:
            return
        if error.code is Code.RATE_LIMITED:
            self.shut = True
        elif uncommitted:  # its own answers will open the gate again
            self._stop_reading("memory")
        else:
            return
        self._slow(error)

    def waits(self, uncommitted: int) -> None:
        """The same for one that publishes nothing."""
        if uncommitted > self._limits.max_uncommitted_per_connection:
            self._stop_reading("backlog")

    def answered(self, uncommitted: int) -> None:
        """Some of it was committed."""
        if not self._reasons:
            return
        if uncommitted <= self._limits.max_uncommitted_per_connection // 2:
            self._go_on_reading("backlog")
        crowded = uncommitted and self._flow.crowded(self._session.counted, self._session.sender)
        if "memory" in self._reasons and not crowded:
            self._go_on_reading("memory")
            if not self.shut:
                self._ease()

    def put_aside(self, frame: Frame) -> None:
        """A frame of those that wait. It alone counts: what came with it was dealt with."""
        self._aside.append(frame)
        self.aside += len(wire.encode(frame))
        if self.aside > MAX_ASIDE:
            self._stop_reading("aside")

    def lost(self) -> None:
        """The connection is gone, or done with."""
        self._aside, self.aside = [], 0
        if self._reason is not None:
            self._reason = None
            self._flow.blocked -= 1

    # Slower, and as before

    def _slow(self, error: BrokerError) -> None:
        if self._reason is None:
            self._flow.blocked += 1
            now = self._flow.clock()
            if now - self._until >= LASTING:
                self._since = now
        self._reason = error
        self._look_again(error.retry_after or LASTING)

    def _ease(self) -> None:
        if self._reason is not None:
            self._reason = None
            self._flow.blocked -= 1
            self._until = self._flow.clock()

    def _look_again(self, seconds: float) -> None:
        if not self._looking:
            self._looking = True
            self._session.shell.later(min(seconds, LASTING), self._look)

    def _look(self) -> None:
        self._looking = False
        if self._session.closed:
            return
        if self.shut:
            self._reopen()
        now = self._flow.clock()
        if self._reason is not None:
            if now - self._since >= LASTING and not self._told:
                self._tell(self._reason)
            self._look_again(self._reason.retry_after or LASTING)
        elif self._told and now - self._until >= LASTING:
            self._tell(None)
        elif self._told:
            self._look_again(LASTING)

    def _reopen(self) -> None:
        """If nothing is owed any more, take what was put aside, as if it came now; that may shut the gate anew."""
        debt = self._flow.debt(self._session.counted)
        if debt is not None:
            self._reason = debt
            return
        self.shut = False
        if "memory" not in self._reasons:
            self._ease()
        frames, self._aside, self.aside = self._aside, [], 0
        self._session.take(frames)
        if self.aside <= MAX_ASIDE:
            self._go_on_reading("aside")

    def _tell(self, error: BrokerError | None) -> None:
        self._told = error is not None
        if self.tells:
            self._session.send(wire.SLOWED, *(() if error is None else (error.code.value, error.text)))

    def _stop_reading(self, reason: str) -> None:
        if not self._reasons:
            self._session.shell.hold(reading=False)
        self._reasons.add(reason)

    def _go_on_reading(self, reason: str) -> None:
        if reason in self._reasons:
            self._reasons.discard(reason)
            if not self._reasons:
                self._session.shell.hold(reading=True)
