"""What one consumer of a queue holds: delivered, begun, settled but not yet told. Pure.

Messages wait in `_waiting` until somebody takes one; then they are *in hand* until settled. What is begun is reported
(STARTED) before it begins, so that a message which kills its worker counts (poison). To report each one alone would
cost a write per message; so first deliveries are *announced* a few ahead, as many as are worked off in a moment, and
redelivered ones, among which the poison is, strictly one by one.

Over a lost connection what is in hand stays in hand: when the broker delivers it again here, the work under way takes
over the new lease; and what was acked here but arrives again (the ack was lost) is acked again, not worked again.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from postroom_client import wire
from postroom_client.credit import Credit
from postroom_client.errors import LeaseLost
from postroom_client.message import Message, Row

if TYPE_CHECKING:
    from postroom_client.consumer import Consumer

MOMENT = 0.001
"""Seconds: what an announcement may cover of work."""
MOST_ANNOUNCED = 32
REMEMBERED = 64
"""Batches of acks remembered, in case a lost connection took the last of them along."""
MOST_REMEMBERED = 100_000

Reason = tuple[str, int | None, str | None]
"""(outcome, delay in ms, error) of a settle that is no plain ack."""


class Inbox:
    """See the module. `number` is the consumer's on the wire."""

    def __init__(self, number: int, credit: Credit) -> None:
        self.number = number
        self.credit = credit
        self.closing = False
        self._paused = False
        self._waiting: deque[Row] = deque()
        self._hand: dict[int, Message] = {}
        self._tenure = 0  # counts connections: a message of an older one has no lease until delivered again
        self._tries: dict[int, tuple[int, int]] = {}
        self._acks: list[int] = []
        self._others: dict[Reason, list[int]] = {}
        self._announced: list[int] = []  # to be reported with the next write
        self._cleared = 0  # so many at the front of _waiting are reported and may begin
        self._pace = 1
        self._announced_at = 0.0
        self._recent: deque[list[int]] = deque(maxlen=REMEMBERED)
        self._done: set[int] = set()

    # In

    @property
    def waiting(self) -> int:
        """Messages that nobody has taken yet."""
        return len(self._waiting)

    @property
    def in_hand(self) -> int:
        """Messages taken and not settled."""
        return len(self._hand)

    def deliver(self, rows: Sequence[Row], tries: Mapping[int, tuple[int, int]] | None) -> None:
        """DELIVER. `tries`: (failed attempts, deliveries) of those delivered before."""
        if tries:
            self._tries.update(tries)
        if self._paused:
            return
        if self._tenure and (self._hand or self._done):
            rows = [row for row in rows if not self._known(row)]
        if self.closing:
            self._release(rows)
        else:
            self._waiting.extend(rows)

    def _known(self, row: Row) -> bool:
        """Is this one in hand since before the connection was lost, or done already?"""
        message = self._hand.get(row[0])
        if message is not None:
            message.tenure = self._tenure
            return True
        if row[0] not in self._done:
            return False
        self._acks.append(row[0])
        self.credit.spend(len(row[4]))
        return True

    def _release(self, rows: Iterable[Row]) -> None:
        offsets = [row[0] for row in rows]
        if offsets:
            self._others.setdefault(("release", None, None), []).extend(offsets)
        for offset in offsets:
            self._tries.pop(offset, None)

    # Taking

    @property
    def cleared(self) -> int:
        """How many may be taken now. When none: announce, have it written, and ask again."""
        return self._cleared

    def announce(self, now: float) -> bool:
        """Report the next ones as begun with the next write. False: one report is already under way."""
        if self._announced or self._cleared or not self._waiting:
            return False
        self._pace = min(self._pace * 2, MOST_ANNOUNCED) if now - self._announced_at < MOMENT else 1
        self._announced_at = now
        for index in range(min(self._pace, len(self._waiting))):
            offset = self._waiting[index][0]
            if offset in self._tries:
                if index == 0:
                    self._announced.append(offset)
                break
            self._announced.append(offset)
        return True

    def take(self, consumer: "Consumer") -> Message:
        """The next cleared message; it is in hand now."""
        row = self._waiting.popleft()
        self._cleared -= 1
        tries = self._tries.get(row[0], (0, 0)) if self._tries else (0, 0)
        message = Message(row, consumer, tries, self._tenure)
        self._hand[row[0]] = message
        return message

    # Settling

    def holds(self, message: Message) -> bool:
        """Is it in hand?"""
        return self._hand.get(message.offset) is message

    def drop(self, message: Message) -> None:
        """It is settled, one way or another. Raises LeaseLost when it was before."""
        if self._hand.get(message.offset) is not message:
            raise LeaseLost("the message has been settled already")
        del self._hand[message.offset]
        if self._tries:
            self._tries.pop(message.offset, None)
        if message.tenure == self._tenure:  # else its credit went with the connection it came on
            self.credit.spend(len(message.body))

    def ack(self, message: Message) -> None:
        """On the path of every message."""
        self.drop(message)
        self._acks.append(message.offset)
        if message.tenure != self._tenure:  # its delivery on this connection may be under way
            self._done.add(message.offset)

    def settle(self, message: Message, reason: Reason) -> None:
        """What is not a plain ack."""
        self.drop(message)
        self._others.setdefault(reason, []).append(message.offset)

    # Out

    def frames(self, now: float) -> list[tuple[Any, ...]]:
        """What to tell the broker: settles first, then what begins, then fresh credit."""
        out: list[tuple[Any, ...]] = []
        if self._acks:
            out.append((wire.SETTLE, self.number, "ack", self._acks))
            self._recent.append(self._acks)
            self._acks = []
        if self._others:
            out.extend(settle_frame(self.number, reason, offsets) for reason, offsets in self._others.items())
            self._others = {}
        if self._announced:
            out.append((wire.STARTED, self.number, self._announced))
            self._cleared += len(self._announced)
            self._announced = []
        grant = None if self.closing or self._paused else self.credit.due(now, idle=not self._waiting)
        if grant:
            out.append((wire.CREDIT, self.number, *grant))
        return out

    def opening(self, now: float) -> tuple[Any, ...]:
        """The credit of a fresh attachment."""
        return (wire.CREDIT, self.number, *self.credit.opening(now))

    def leased(self) -> list[int]:
        """Offsets whose leases are to be prolonged."""
        mine = [offset for offset, message in self._hand.items() if message.tenure == self._tenure]
        return mine + [row[0] for row in self._waiting]

    def close(self) -> None:
        """No more work: what nobody has begun is released."""
        self.closing = True
        self._release(self._waiting)
        self._forget()

    def pause(self) -> None:
        """Nothing more is begun on this connection; it ends soon, and then all that is not settled is ready again."""
        self._paused = True
        self._forget()

    def lost(self) -> None:
        """The connection broke: the broker hands out again what was leased here."""
        if len(self._done) > MOST_REMEMBERED:
            self._done.clear()
        self._done.update(chain.from_iterable(self._recent))
        self._recent.clear()
        self._tenure += 1
        self._paused = False
        self._forget()
        self._tries = {offset: tries for offset, tries in self._tries.items() if offset in self._hand}
        self._others.pop(("release", None, None), None)

    def _forget(self) -> None:
        self._waiting.clear()
        self._announced.clear()
        self._cleared = 0

    def renewed(self) -> None:
        """The log has another epoch: its offsets say nothing about ours."""
        self._done.clear()
        self._hand.clear()
        self._acks.clear()
        self._others.clear()


def settle_frame(number: int, reason: Reason, offsets: list[int], request: int | None = None) -> tuple[Any, ...]:
    """SETTLE with what is given of delay and error."""
    outcome, delay, error = reason
    options = {name: value for name, value in (("delay", delay), ("error", error)) if value is not None}
    frame = (wire.SETTLE, number, outcome, offsets)
    if request is not None:
        return (*frame, options or None, request)
    return (*frame, options) if options else frame
