"""`$queue/NAME[/FILTER]`: a queue worked off by MQTT clients, beside workers of other doors and like them.

Every message comes with QoS 1 and its PUBACK settles it: with a reason below 0x80 it is done; one that says that the
message is wrong rejects it to the dead letters, any other one asks for a retry by the queue's policy. What a client did
not answer when it went, or before the lease ran out, goes to another. With FILTER the queue is made when there is none.
Floor 4.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from broker.auth.grant import on_subscription
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.spec import check_name
from broker.core.subscription import Delivery, Kind, Outcome, Spec
from broker.hub import Hub
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.fanout import written_user
from broker.protocols.mqtt.codec.packets import Request
from broker.protocols.mqtt.filters import Subscribed, check_logged
from broker.protocols.mqtt.tie import NamedTie

if TYPE_CHECKING:
    from broker.protocols.mqtt.sender import Sender

PREFIX = "$queue/"
REJECTS = (Reason.NOT_AUTHORIZED, Reason.TOPIC_NAME_INVALID, Reason.PAYLOAD_FORMAT_INVALID)
"""Reasons of a PUBACK that no retry would mend."""


class Address(NamedTuple):
    """A queue's name, and the filter by which it is made; '' for none."""

    name: str
    filter: str


def address_of(text: str) -> Address:
    """Which queue a filter that begins with the prefix names. Names hold no `/`. Raises BAD_FILTER."""
    name, slash, topics = text.removeprefix(PREFIX).partition("/")
    try:
        check_name(name)
    except BrokerError as error:
        raise BrokerError(Code.BAD_FILTER, f"{PREFIX}NAME or {PREFIX}NAME/FILTER: {error.detail}") from None
    return Address(name, check_logged(topics) if slash else "")


class QueueTie(NamedTie):
    """A session's consumer of a queue. `window`: messages that it may hold at most."""

    def __init__(self, subscribed: Subscribed, window: int) -> None:
        self.address = address_of(subscribed.filter)
        super().__init__(subscribed, on_subscription(self.address.name), self.address.name)
        self._most = window
        self._window = 0
        self._out = 0  # delivered and not answered
        self._tried: dict[int, int] = {}  # failed attempts of what was delivered before
        self._left: Callable[[QueueTie], None] | None = None

    def check(self, request: Request) -> None:
        """See NamedTie."""
        super().check(request)
        if not request.qos:
            raise BrokerError(Code.BAD_OPTION, "a queue is consumed with QoS 1: PUBACK settles its messages")

    def there(self, hub: Hub) -> bool:
        """See NamedTie."""
        name, topics = self.address
        try:
            spec = hub.engine.subscription(name).spec
        except BrokerError:
            return False
        if spec.kind is not Kind.QUEUE:
            raise BrokerError(Code.WRONG_KIND, f"{name} is a stream: subscribe to $stream/{name}")
        if topics and spec.topics != (topics,):
            raise BrokerError(Code.CONFLICT, f"the topics of {name} are {', '.join(spec.topics)}, not {topics}")
        return True

    async def make(self, hub: Hub, principal: Principal) -> None:
        """Make sure that it is there. Raises UNKNOWN_SUBSCRIPTION, and what making it does."""
        name, topics = self.address
        if self.there(hub):
            return
        if not topics:
            detail = f"{name!r}; {PREFIX}{name}/FILTER makes it, or postroom queue create"
            raise BrokerError(Code.UNKNOWN_SUBSCRIPTION, detail)
        await hub.put_subscription(principal, Spec(name, Kind.QUEUE, (topics,)))

    def consume(self, hub: Hub, sender: "Sender", window: int) -> None:
        """See Tie."""
        self._window = min(window, self._most)
        super().consume(hub, sender, self._window)

    def detach(self, begun: Sequence[int] = ()) -> None:
        """See Tie."""
        super().detach(begun)
        self._out = 0
        self._tried.clear()

    def leave(self, left: Callable[["QueueTie"], None]) -> bool:
        """Take no more, and detach when all that was delivered is answered, `left` is called then; False when that is
        so already."""
        if not self._out or self.attachment is None:
            return False
        self._left = left
        self.attachment.grant(self._out + self._messages - self._window, 0)
        return True

    # Consumer

    def deliver(self, delivery: Delivery) -> None:
        """See Consumer."""
        if self._left is not None:  # it was on its way; not from within the engine's own call
            asyncio.get_running_loop().call_soon(self._give_back, [row[0] for row in delivery.rows])
            return
        self._out += len(delivery.rows)
        self._tried.update({offset: attempts for offset, (attempts, _) in delivery.attempts.items()})
        super().deliver(delivery)

    def _give_back(self, offsets: Sequence[int]) -> None:
        if self.attachment is not None:
            self.attachment.settle(Outcome.RELEASE, offsets)

    def note(self, row: Row) -> bytes:
        """Which attempt it is, from 1, and its place in the log, by which one that comes twice is known."""
        attempt = self._tried.pop(row[0], 0) + 1
        return written_user("postroom-attempt", str(attempt)) + written_user("postroom-offset", str(row[0]))

    def holds(self, offset: int) -> bool:
        """Its lease may have run out while it waited."""
        return bool(self.lease(offset))

    # What becomes of them

    def refuse(self, offsets: Sequence[int], reason: Reason, why: str) -> None:
        """See the module."""
        if self.attachment is not None and offsets:
            outcome = Outcome.REJECT if reason in REJECTS else Outcome.RETRY
            self.attachment.settle(outcome, offsets, None, f"{why} (0x{reason:02X})")
            self.free(len(offsets), 0)

    def free(self, messages: int, size: int) -> None:
        """See Tie."""
        self._out -= messages
        super().free(messages, size)

    def top_up(self) -> None:
        """See Tie."""
        if self._left is None:
            super().top_up()
        elif self._out <= 0:
            left = self._left
            self.detach()
            left(self)
