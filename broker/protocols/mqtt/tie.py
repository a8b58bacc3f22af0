"""A session's reader of the log, of its own queue, of a group's, or of another one by its name: what the engine brings
goes to its sender.

A tie lives as long as what it stands for, over connections; it is attached while somebody is connected. Credit comes
back when messages are answered (bytes as soon as they are written), and not while the socket is full, so that a slow
client costs little memory. Floor 4.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from broker.auth.grant import Resource
from broker.auth.principal import BROKER, Principal
from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.subscription import Delivery, Outcome
from broker.engine.base import Attachment
from broker.hub import Hub
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.fanout import written_ids
from broker.protocols.mqtt.codec.packets import Request
from broker.protocols.mqtt.filters import Filters, Subscribed, Wanted

if TYPE_CHECKING:
    from broker.protocols.mqtt.sender import Sender

ROOM = 4 << 20
"""Bytes on their way to a client's socket, at most."""
NAMED_ROOM = 256 << 10
"""The same of one queue or stream that is read by name: a client may have many."""


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
        self._skipped = 0  # before this attachment
        self._rising = False

    @property
    def flows(self) -> bool:
        """Does it bring messages to somebody?"""
        return self._sender is not None

    def consume(self, hub: Hub, sender: "Sender", window: int) -> None:
        """Begin to take from its queue. Rights are held by filter. Raises UNKNOWN_SUBSCRIPTION."""
        assert self.queue is not None
        self.attach(sender, hub.attach(BROKER, self.queue, self), window)

    def attach(self, sender: "Sender", attachment: Attachment, window: int, room: int = ROOM) -> None:
        """Somebody is connected who takes so many messages, and bytes."""
        self._sender = sender
        self.attachment = attachment
        self._messages = self._bytes = 0
        attachment.grant(window, room)

    def detach(self, begun: Sequence[int] = ()) -> None:
        """Nobody is: what was leased is ready again. `begun`: what a client that was lost was working on, which counts
        against these messages."""
        self._skipped = self.skipped
        attachment, self.attachment, self._sender = self.attachment, None, None
        if attachment is not None:
            if begun:
                attachment.started(begun)
            attachment.detach(lost=bool(begun))

    @property
    def skipped(self) -> int:
        """Messages that are in no log and passed it by because its socket was full."""
        return self._skipped + (0 if self.attachment is None else self.attachment.skipped)

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
        self._skipped = self.skipped
        self.attachment = self._sender = None
        self.ended(error)

    # What becomes of them

    def settle(self, offsets: Sequence[int]) -> None:
        """The client has these, or never will; the next commit notes it."""
        if self.attachment is not None and offsets:
            if self.queue is not None:
                self.attachment.settle(Outcome.ACK, offsets)
            self.free(len(offsets), 0)

    def refuse(self, offsets: Sequence[int], reason: Reason, why: str) -> None:
        """The client will not have these; they are not sent again. [MQTT-4.4.0-2]"""
        self.settle(offsets)

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


class NamedTie(Tie):
    """A reader of what others read too, by its name: `$queue/…`, `$stream/…`. Its messages say where they are from, in
    properties of their own, and come with the QoS that was granted, whatever they were published with.

    `resource` is what its reader needs the right to consume.
    """

    def __init__(self, subscribed: Subscribed, resource: Resource, queue: str | None) -> None:
        super().__init__(Filters(), queue)
        self.resource = resource
        self.moved = False
        """Has it come further than what is kept says?"""
        self.put(subscribed)

    def put(self, subscribed: Subscribed) -> None:
        """As it was granted, at first or anew. [MQTT-3.8.4-3]"""
        self.subscribed = subscribed
        own = written_ids((subscribed.identifier,)) if subscribed.identifier else b""
        self.asked = Wanted(subscribed.qos, subscribed.retain_as_published, own)

    def check(self, request: Request) -> None:
        """Can it be read like that? Raises BAD_OPTION."""
        if request.no_local:
            raise BrokerError(Code.BAD_OPTION, "No Local is for topics: a queue or stream is of all publishers")

    def there(self, hub: Hub) -> bool:
        """Is there what it reads? Raises WRONG_KIND, CONFLICT for something else of that name."""
        raise NotImplementedError

    async def make(self, hub: Hub, principal: Principal) -> None:
        """Make sure that it is. Raises what making it does."""

    def open(self, hub: Hub) -> None:
        """Find out where reading begins; nothing is delivered yet. Raises what attaching does."""

    def goes_on(self, asked: "NamedTie") -> bool:
        """Does it go on when a client subscribes to the same again?"""
        return True

    @property
    def entry(self) -> Subscribed:
        """As it is kept with its session."""
        return self.subscribed

    def attach(self, sender: "Sender", attachment: Attachment, window: int, room: int = NAMED_ROOM) -> None:
        """See Tie."""
        super().attach(sender, attachment, window, room)

    def wanted(self, row: Row) -> Wanted | None:
        """See Tie."""
        return self.asked

    def note(self, row: Row) -> bytes:
        """What a message says of itself here, as encoded properties."""
        raise NotImplementedError

    def holds(self, offset: int) -> bool:
        """Is a message that waited to be sent still to be sent?"""
        return True
