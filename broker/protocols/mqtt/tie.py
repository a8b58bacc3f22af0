"""A session's reader of the log, of its own queue, or of a group's: what the engine delivers goes to its sender.

A tie lives as long as what it stands for, over connections; it is attached while somebody is connected. Credit comes
back when messages are answered (bytes as soon as they are written), and not while the socket is full, so that a slow
client costs little memory. Floor 4.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError
from broker.core.message import Row
from broker.core.subscription import Delivery, Outcome
from broker.engine.base import Attachment
from broker.protocols.mqtt.filters import Filters, Wanted

if TYPE_CHECKING:
    from broker.protocols.mqtt.sender import Sender

ROOM = 4 << 20
"""Bytes on their way to a client's socket, at most."""


class Tie:
    """`queue` is the subscription that it consumes, None for a reader of the log. `elsewhere`: another tie brings what
    is wanted with QoS 1 or 2."""

    def __init__(self, filters: Filters, queue: str | None = None, *, elsewhere: bool = False) -> None:
        self.filters = filters
        self.queue = queue
        self.known: dict[int, tuple[int, int]] = {}
        """Offset to (packet identifier, QoS) of what was in flight when the last connection was lost."""
        self.attachment: Attachment | None = None
        self.ended: Callable[[BrokerError], None] = lambda _: None
        self._elsewhere = elsewhere
        self._sender: Sender | None = None
        self._messages = self._bytes = 0  # to be granted again
        self._rising = False

    def attach(self, sender: "Sender", attachment: Attachment, window: int) -> None:
        """Somebody is connected who takes so many messages."""
        self._sender = sender
        self.attachment = attachment
        self._messages = self._bytes = 0
        attachment.grant(window, ROOM)

    def detach(self) -> None:
        """Nobody is: what was leased is ready again."""
        attachment, self.attachment, self._sender = self.attachment, None, None
        if attachment is not None:
            attachment.detach()

    def wanted(self, row: Row) -> Wanted | None:
        """How a message is to be delivered; None when it is not, or not by this tie."""
        wanted = self.filters.wanted(row[1])
        return None if wanted is not None and wanted.qos and self._elsewhere and row[0] else wanted

    # Consumer

    def deliver(self, delivery: Delivery) -> None:
        """See Consumer."""
        if self._sender is not None:
            self._sender.take(self, delivery.rows)

    def detached(self, error: BrokerError) -> None:
        """See Consumer."""
        self.attachment = self._sender = None
        self.ended(error)

    # What becomes of them

    def settle(self, offsets: Sequence[int]) -> None:
        """The client has these, or never will; the next commit notes it."""
        if self.attachment is not None and offsets:
            if self.queue is not None:
                self.attachment.settle(Outcome.ACK, offsets)
            self.free(len(offsets), 0)

    def lease(self, offset: int) -> int | None:
        """Its number, for a settle that is part of a unit."""
        return None if self.attachment is None else self.attachment.held(offset)

    def free(self, messages: int, size: int) -> None:
        """So much more may be delivered; not from within the engine's own call."""
        self._messages += messages
        self._bytes += size
        if not self._rising:
            self._rising = True
            asyncio.get_running_loop().call_soon(self._rise)

    def _rise(self) -> None:
        self._rising = False
        self.top_up()

    def top_up(self) -> None:
        """Pass on the credit that came back, unless the socket is full."""
        if self.attachment is None or self._sender is None or self._sender.full:
            return
        messages, size = self._messages, self._bytes
        if messages or size:
            self._messages = self._bytes = 0
            self.attachment.grant(messages, size)
