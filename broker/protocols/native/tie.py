"""A consumer of a native connection: what the engine delivers becomes DELIVER frames.

Credit that the client granted is passed on to the engine in slices, and not while the socket is full, so that a
client that grants much and reads slowly costs little memory. Floor 4.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError
from broker.core.message import Row
from broker.core.subscription import Delivery, Outcome
from broker.engine.base import Attachment
from broker.protocols.native import wire

if TYPE_CHECKING:
    from broker.protocols.native.session import Session

UNLIMITED = 1 << 60
SLICE_MESSAGES = 16_384
SLICE_BYTES = 8 << 20


class Tie:
    """See the module."""

    def __init__(self, session: "Session", number: int, subscription: str | None) -> None:
        self._session = session
        self._number = number
        self.subscription = subscription
        self.attachment: Attachment
        self._messages = 0  # granted by the client, not yet passed on
        self._bytes = 0
        self._open_messages = 0  # passed on, not yet delivered
        self._open_bytes = 0
        self._stopped = False

    def bind(self, attachment: Attachment) -> None:
        """The other end."""
        self.attachment = attachment

    def grant(self, messages: int, size: int) -> None:
        """The client grants more."""
        self._messages += messages
        self._bytes += size
        self.top_up()

    def top_up(self) -> None:
        """Pass credit on, as far as slices and the socket allow."""
        if self._stopped or self._session.blocked:
            return
        messages = min(self._messages, SLICE_MESSAGES - self._open_messages)
        size = min(self._bytes, SLICE_BYTES - self._open_bytes)
        if messages <= 0 and size <= 0:
            return
        messages, size = max(messages, 0), max(size, 0)
        self._messages -= messages
        self._bytes -= size
        self._open_messages += messages
        self._open_bytes += size
        self.attachment.grant(messages, size)

    def deliver(self, delivery: Delivery) -> None:
        """One frame for all of it, or as many as the limit on frames asks for."""
        rows = delivery.rows
        if self._stopped:
            if delivery.lease:  # not from within the engine's own call: what is released may be delivered at once
                self._session.shell.soon(partial(self._give_back, [row[0] for row in rows]))
            return
        size = sum([len(row[4]) for row in rows])
        self._open_messages -= len(rows)
        self._open_bytes -= size
        largest = self._session.hub.limits.max_frame // 2  # headers and keys come on top
        for part in (rows,) if size <= largest else _parts(rows, largest):
            if delivery.attempts:
                tried = {row[0]: delivery.attempts[row[0]] for row in part if row[0] in delivery.attempts}
                self._session.send(wire.DELIVER, self._number, delivery.lease, part, tried)
            else:
                self._session.send(wire.DELIVER, self._number, delivery.lease, part)
        if (self._messages and self._open_messages < SLICE_MESSAGES // 2) or (
            self._bytes and self._open_bytes < SLICE_BYTES // 2
        ):
            self._session.shell.soon(self.top_up)

    def detached(self, error: BrokerError) -> None:
        """The engine let go of us."""
        self._stopped = True
        if self._session.ties.pop(self._number, None) is not None:
            self._session.send(wire.DETACHED, self._number, error.code.value, error.text)

    def stop(self) -> None:
        """No more deliveries: credit that was passed on is taken back."""
        self._stopped = True
        self.attachment.grant(-self._open_messages, 0)

    def _give_back(self, offsets: list[int]) -> None:
        """These were on their way when deliveries stopped."""
        self.attachment.settle(Outcome.RELEASE, offsets)

    def end(self, *, lost: bool) -> None:
        """Let go of the subscription."""
        self._stopped = True
        self.attachment.detach(lost=lost)


def _parts(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """The rows in pieces of about `size` bytes of bodies."""
    start = weight = 0
    for i, row in enumerate(rows):
        if weight and weight + len(row[4]) > size:
            yield rows[start:i]
            start, weight = i, 0
        weight += len(row[4])
    yield rows[start:]
