"""`$stream/NAME` and `$stream/FILTER`: the log in order, from a place in the past on and then live.

NAME is a stream subscription: it is read from its cursor, and PUBACK moves the cursor behind what is answered without a
gap. Else it is a filter, read from where the user property `stream-offset` of the SUBSCRIBE says: `earliest`, `latest`
(without it), an offset, a position, an RFC 3339 time, or an age such as `-24h`. A session that is kept goes on where it
stood. Every message carries its offset and position, to come back with. Floor 4.
"""

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from broker.auth.grant import on_subscription, on_topic
from broker.auth.principal import BROKER
from broker.core.duration import parse_duration
from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.position import LATEST, Position, Start
from broker.core.subscription import Delivery, Kind, Outcome
from broker.hub import Hub
from broker.protocols.mqtt.codec.fanout import written_user
from broker.protocols.mqtt.codec.packets import Properties
from broker.protocols.mqtt.filters import Subscribed, check_logged
from broker.protocols.mqtt.tie import NamedTie

if TYPE_CHECKING:
    from broker.protocols.mqtt.sender import Sender

PREFIX = "$stream/"
OFFSET, POSITION, RECOVERED = "stream-offset", "stream-position", "stream-recovered"
"""User properties: of SUBSCRIBE the first, of SUBACK the others, of messages the first two, and the third where a
session that was kept could not go on where it stood."""


def start_of(asked: Properties, now: int) -> Start | None:
    """Where a SUBSCRIBE wants to begin, `now` in unix ms; None: it does not say. Raises BAD_OPTION, BAD_POSITION."""
    found = [value for name, value in asked.get("user", ()) if name == OFFSET]
    if len(found) > 1:
        raise BrokerError(Code.BAD_OPTION, f"{OFFSET} is there {len(found)} times; it is of all streams of the packet")
    if not found:
        return None
    if found[0].startswith("-"):
        return Start("time", max(0, now - parse_duration(found[0][1:], OFFSET)))
    try:
        return Start.parse(found[0])
    except BrokerError as error:
        raise BrokerError(error.code, f"{error.detail}; here also an age, such as -24h") from None


def stream_tie(subscribed: Subscribed, hub: Hub, asked: Properties | None) -> "StreamTie":
    """`asked`: the properties of the SUBSCRIBE; None for one that was kept. Raises BAD_FILTER, and what `start_of`
    does."""
    text = subscribed.filter.removeprefix(PREFIX)
    if asked is None:
        begins = Start.parse(subscribed.start) if subscribed.start else None
        return StreamTie(subscribed, text, begins, named=begins is None)
    start = start_of(asked, int(hub.wall() * 1000))
    if not _is_stream(hub, text):
        return StreamTie(subscribed, check_logged(text), start, named=False)
    if start is not None:
        raise BrokerError(Code.BAD_OPTION, f"the stream {text} is read from its cursor; leave out {OFFSET}")
    return StreamTie(subscribed, text, None, named=True)


def _is_stream(hub: Hub, name: str) -> bool:
    try:
        return hub.engine.subscription(name).spec.kind is Kind.STREAM
    except BrokerError:
        return False


class StreamTie(NamedTie):
    """A session's reader of a stream. `text` is its name, or a filter; `start`: where it is to begin, if that was said.

    `recovered`: did reading begin where it should? `place`: all before it has been answered, or need not be; to come
    back with.
    """

    def __init__(self, subscribed: Subscribed, text: str, start: Start | None, *, named: bool) -> None:
        resource = on_subscription(text) if named else on_topic(text)
        super().__init__(subscribed, resource, text if named else None)
        self._text = text
        self._start = start
        self.recovered = True
        self.place = subscribed.start
        self._epoch = ""
        self._sent: deque[int] = deque()  # offsets, as delivered
        self._answered: set[int] = set()  # those of them that others before are in the way of
        self._lead = b""  # what the next message says besides

    def there(self, hub: Hub) -> bool:
        """See NamedTie."""
        return self.queue is None or _is_stream(hub, self.queue)

    def goes_on(self, asked: NamedTie) -> bool:
        """See NamedTie: one that says where to begin begins there."""
        return isinstance(asked, StreamTie) and asked._start is None and asked.resource == self.resource

    @property
    def entry(self) -> Subscribed:
        """See NamedTie."""
        return self.subscribed if self.queue is not None else self.subscribed._replace(start=self.place)

    def told(self) -> list[tuple[str, str]]:
        """What a SUBACK says of it: user properties."""
        return [(RECOVERED, str(self.recovered).lower()), (POSITION, self.place)]

    # Reading

    def open(self, hub: Hub) -> None:
        """See NamedTie."""
        if self.attachment is not None:
            return
        start, self._start, self._epoch = self._start, None, hub.engine.epoch
        if self.queue is not None:
            self.attachment = hub.attach(BROKER, self.queue, self)
        else:
            self.attachment = hub.follow(BROKER, [self._text], start or self._again(), self)
        self.recovered = self.attachment.recovered
        self._note_place(self.attachment.position)
        if start is not None and start.kind == "time":  # its position may lie before it
            self.place = datetime.fromtimestamp(start.offset / 1000, UTC).isoformat()

    def _again(self) -> Start:
        return Start.parse(self.place) if self.place else LATEST

    def _note_place(self, offset: int) -> None:
        self.place = str(Position(self._epoch, max(0, offset)))

    def consume(self, hub: Hub, sender: "Sender", window: int) -> None:
        """See Tie."""
        if self.attachment is None:  # nobody could be told by SUBACK
            self.open(hub)
            self._lead = b"" if self.recovered else written_user(RECOVERED, "false")
        assert self.attachment is not None
        self.attach(sender, self.attachment, window)

    def detach(self, begun: Sequence[int] = ()) -> None:
        """See Tie."""
        super().detach(begun)
        self._sent.clear()
        self._answered.clear()

    def deliver(self, delivery: Delivery) -> None:
        """See Consumer."""
        self._sent.extend([row[0] for row in delivery.rows])
        super().deliver(delivery)

    def holds(self, offset: int) -> bool:
        """See NamedTie."""
        return self.attachment is not None

    def note(self, row: Row) -> bytes:
        """Its place in the log."""
        lead, self._lead = self._lead, b""
        offset = row[0]
        return lead + written_user(OFFSET, str(offset)) + written_user(POSITION, f"{self._epoch}.{offset}")

    def settle(self, offsets: Sequence[int]) -> None:
        """Move on behind what has been answered without a gap. With QoS 0 nothing is answered, and a cursor stays."""
        if self.attachment is None or not offsets:
            return
        sent, answered = self._sent, self._answered
        answered.update(offsets)
        last = -1
        while sent and sent[0] in answered:
            last = sent.popleft()
            answered.discard(last)
        if last >= 0:
            self._note_place(last)
            if self.queue is None:
                self.moved = True
            elif self.asked.qos:
                self.attachment.settle(Outcome.ACK, (last,))
        self.free(len(offsets), 0)
