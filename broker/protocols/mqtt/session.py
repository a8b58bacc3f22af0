"""A session (§4.1): what lives on, or not, when a client is away. Its subscriptions, what it has in flight, its will.

One that ends with its connection reads the log live. One that is kept is a durable queue subscription over its filters
of QoS 1 and 2, named `mqtt/CLIENT`; what it wants with QoS 0 it reads live, while it is there. Floor 4.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from broker.auth.grant import Resource, Verb
from broker.auth.hold import Hold
from broker.auth.principal import BROKER, Principal
from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.position import LATEST
from broker.core.retry import RetryPolicy
from broker.core.subscription import Kind, Overflow, Spec
from broker.engine.base import Engine, Set
from broker.hub import Hub
from broker.protocols.mqtt import queues, streams
from broker.protocols.mqtt.codec.packets import Properties, Will
from broker.protocols.mqtt.filters import Filters, Subscribed
from broker.protocols.mqtt.flow.inbound import Inbound
from broker.protocols.mqtt.flow.outbound import Outbound, Sent
from broker.protocols.mqtt.kept import (
    SessionRecord,
    escaped,
    forgotten_outbound,
    forgotten_session,
    inbound_key,
    outbound,
)
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.parcel import Asked, Token
from broker.protocols.mqtt.queues import QueueTie
from broker.protocols.mqtt.sender import Sender
from broker.protocols.mqtt.tie import ROOM, NamedTie, Tie

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

LEASE = 86_400_000
"""Milliseconds; prolonged as long as somebody is connected, so that it never runs out."""
FOREVER = RetryPolicy(max_attempts=1 << 52)
MAX_TROUBLE = 300
"""Characters that are kept of an error."""
NOWHERE = "$mqtt/nowhere"
"""A filter that matches nothing that can be published."""
SHARED_WINDOW = 1_000
"""Messages of a group that one member may hold, so that there is something left for the others."""


class Trouble(NamedTuple):
    """What went wrong last with a client, and when (unix ms)."""

    code: str
    detail: str
    at: int


class Session:
    """See the module. `expiry`: seconds that it is kept when nobody is connected; `durable` was decided at its
    beginning."""

    def __init__(self, client_id: str, principal: Principal, *, durable: bool, expiry: int) -> None:
        self.client_id = client_id
        self.principal = principal
        self.durable = durable
        self.expiry = expiry
        self.away: float | None = None
        self.trouble: Trouble | None = None
        self.filters = Filters()
        self.shares: dict[str, Tie] = {}
        self.readers: dict[str, NamedTie] = {}
        self.leaving: set[QueueTie] = set()
        """Of queues that it has unsubscribed from, with messages that it did not answer yet."""
        self.outbound: Outbound[Token] = Outbound()
        self.inbound = Inbound()
        self.will: Will | None = None
        self.connection: Connection | None = None
        self.sender: Sender | None = None
        self._holds: dict[str, Hold] = {}
        self._live = Tie(self.filters, elsewhere=durable)
        self.own = Tie(self.filters, self.queue) if durable else None
        self._window = 0
        self._unfinished: list[Row] = []  # of its queue, which does not bring them again
        self._given_up: list[int] = []  # identifiers of QoS 2 of which the log has nothing any more
        self._untold: list[Asked] = []  # retained messages that the last connection did not send, or not all

    # What it is called in the engine

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return f"mqtt/{escaped(self.client_id)}"

    def spec(self, options: MqttOptions, more: Iterable[str] = ()) -> Spec | None:
        """Its queue, with more filters than it has yet; None when it needs none."""
        topics = tuple(dict.fromkeys([*(entry.filter for entry in self.filters if entry.qos), *more]))
        return own_queue(self.queue, topics, options) if topics else None

    def closing(self, engine: Engine, options: MqttOptions) -> Spec | None:
        """Its queue when it needs none, while something waits in it: one that takes nothing more."""
        return own_queue(self.queue, (NOWHERE,), options) if self._waits(engine) else None

    def _waits(self, engine: Engine) -> bool:
        """Is there anything in its queue?"""
        try:
            return engine.weight(self.queue)[0] > 0
        except BrokerError:  # it has none
            return False

    @property
    def count(self) -> int:
        """How many filters it has."""
        return len(self.filters) + len(self.shares) + len(self.readers)

    def has(self, text: str) -> bool:
        """Has it exactly this filter?"""
        return self.filters.get(text) is not None or text in self.shares or text in self.readers

    def entries(self) -> list[Subscribed]:
        """All that it subscribes to, as it is kept."""
        shares = [next(iter(tie.filters)) for tie in self.shares.values()]
        return [*self.filters, *shares, *(reader.entry for reader in self.readers.values())]

    @property
    def moved(self) -> bool:
        """Has it read on in a stream since it was kept?"""
        return self.durable and any(reader.moved for reader in self.readers.values())

    def record(self) -> Set:
        """It as it is kept from now on."""
        for reader in self.readers.values():
            reader.moved = False
        return SessionRecord(self.client_id, self.principal.name, self.expiry, self.away, self.entries()).kept()

    def forgotten(self) -> list[Set]:
        """What is to be deleted when it ends."""
        sets = [Set(inbound_key(self.client_id, packet_id), None) for packet_id in self.inbound.used]
        sets += [forgotten_outbound(self.client_id, packet_id) for packet_id, _, _ in self.outbound.unanswered()]
        return [forgotten_session(self.client_id), *sets]

    def restore(self, owned: Iterable[int], sent: Iterable[tuple[int, int]]) -> None:
        """At start: inbound identifiers of QoS 2, and outbound ones with the offsets of their messages, -1 where only
        PUBREL is left."""
        self.inbound = Inbound(owned)
        assert self.own is not None
        tie = self.own
        self.outbound = Outbound(
            sent=[
                (packet_id, Sent.QOS_2 if offset >= 0 else Sent.RELEASED, (tie, offset)) for packet_id, offset in sent
            ]
        )

    def note(self, error: BrokerError, wall: float) -> None:
        """Something was refused to it, or ended its connection; of that operators hear."""
        if error.code is not Code.SHUTTING_DOWN:
            self.trouble = Trouble(error.code.value, error.text[:MAX_TROUBLE], int(wall * 1000))

    # Rights

    def hold(self, hub: Hub, text: str, resource: Resource) -> None:
        """May it read this, by this filter? Remembered, so that it ends when the right does. Raises FORBIDDEN."""
        hold = hub.hold(self.principal, Verb.CONSUME, resource, self.fail)
        before = self._holds.pop(text, None)
        if before is not None:
            before.release()
        self._holds[text] = hold

    def release(self, text: str) -> None:
        """It no longer reads them."""
        hold = self._holds.pop(text, None)
        if hold is not None:
            hold.release()

    def release_all(self) -> None:
        """It has ended, or nobody is there."""
        for text in list(self._holds):
            self.release(text)

    # Connected, and not

    def connect(self, connection: "Connection", sender: Sender, window: int) -> None:
        """Somebody is here who takes `window` messages without an answer. What was in flight keeps its identifiers; of
        a group's messages, others have them now."""
        self.connection = connection
        self.sender = sender
        self.away = None
        self._window = window

    def renew(self, receive_maximum: int) -> None:
        """Before `connect`: what the last connection left unanswered. All that it handed in is committed by now; what
        it was let go for was not, so that an identifier of QoS 2 that is still pending is free."""
        self.inbound = Inbound(self.inbound.owned)
        left = [
            (packet_id, state if self._is_mine(token) else Sent.RELEASED, token)
            for packet_id, state, token in self.outbound.unanswered()
            if self._is_mine(token) or state is not Sent.QOS_1
        ]
        self.outbound = Outbound(receive_maximum, left)
        if self.own is not None:
            self.own.known = {
                token[1]: (packet_id, 1 if state is Sent.QOS_1 else 2)
                for packet_id, state, token in left
                if state is not Sent.RELEASED and token[0] is not None
            }

    async def take_up(self, engine: Engine) -> list[Set]:
        """Before `renew`, and while what was in flight is sent again: of that which others have settled since (it
        expired, was dropped or purged), QoS 2 has begun and goes on all the same [MQTT-4.3.3-7], as far as the log
        still has it and ROOM holds it; the rest does not come again: of that the identifiers are free, with QoS 2 once
        the client has released them. Returns what is to be committed."""
        gone = self.gone(engine)
        begun = sorted(offset for offset, (_, state) in gone.items() if state is Sent.QOS_2)
        self._unfinished = (await engine.fetch_within(begun, ROOM))[0] if begun else []
        for row in self._unfinished:
            del gone[row[0]]
        self.outbound.forget([packet_id for packet_id, state in gone.values() if state is Sent.QOS_1])
        self._given_up = sorted(packet_id for packet_id, state in gone.values() if state is Sent.QOS_2)
        self.outbound.release(self._given_up)
        if self.own is not None:
            for offset in gone:
                self.own.known.pop(offset, None)
        return [outbound(self.client_id, packet_id, None) for packet_id in self._given_up]

    def gone(self, engine: Engine) -> dict[int, tuple[int, Sent]]:
        """What is to be sent again, but its queue does not bring it any more: offset to identifier and state."""
        known = None if self.connection is None or self.own is None else self.own.known
        waits = {
            token[1]: (packet_id, state)
            for packet_id, state, token in self.outbound.unanswered()
            if token[0] is not None and token[0] is self.own and state is not Sent.RELEASED
            if known is None or token[1] in known
        }
        try:
            there = engine.outstanding(self.queue, waits)
        except BrokerError:  # it has no queue any more
            there = set()
        return {offset: found for offset, found in waits.items() if offset not in there}

    @property
    def resuming(self) -> bool:
        """Does its client wait for something to be sent again?"""
        return self.connection is not None and self.own is not None and bool(self.own.known)

    def go_on(self) -> None:
        """Send what `take_up` found while the client was here already, before what waits for an identifier."""
        if self.sender is not None and self.own is not None:
            rows, self._unfinished = self._unfinished, []
            self.own.free(-len(rows), -sum(len(row[4]) for row in rows))
            self.sender.take_first(self.own, rows)
            self.sender.release_again(self._given_up)

    def _is_mine(self, token: Token) -> bool:
        return token[0] is None or token[0] is self.own

    def send_again(self) -> None:
        """What no queue brings again: PUBREL, retained messages, and what `take_up` found. [MQTT-4.4.0-1]"""
        assert self.sender is not None
        released = [packet_id for packet_id, state, _ in self.outbound.unanswered() if state is Sent.RELEASED]
        self.sender.release_again(released)
        retained: list[tuple[int, int, Row]] = []
        for packet_id, state, token in self.outbound.unanswered():
            if token[0] is None and state is not Sent.RELEASED:
                retained.append((packet_id, 1 if state is Sent.QOS_1 else 2, token[1]))
        self.sender.again(retained)
        untold, self._untold = self._untold, []
        self.sender.retained([asked for asked in untold if self.filters.get(asked.filter) is not None])
        if self.own is not None and self._unfinished:
            self.sender.take(self.own, self._unfinished)

    def read(self, hub: Hub) -> None:
        """Begin to read, or go on with other filters, what is wanted live. Rights are held by filter."""
        wanted = [entry.filter for entry in self.filters if not (self.durable and entry.qos)]
        tie = self._live
        if self.sender is None or not wanted:
            tie.detach()
        elif tie.attachment is not None:
            tie.attachment.refilter(wanted)
        else:
            tie.ended = self.fail
            tie.attach(self.sender, hub.follow(BROKER, wanted, LATEST, tie, passing=True), self._window)

    def consume(self, hub: Hub) -> None:
        """Begin to take from its queue and its groups', as far as there are any and it does not yet."""
        if self.sender is None:
            return
        if (
            self.own is not None
            and self.own.attachment is None
            and (any(entry.qos for entry in self.filters) or self._waits(hub.engine))
        ):
            self._consume(hub, self.own, max(0, self._window - len(self._unfinished)))
            self._unfinished = []
        for tie in (*self.shares.values(), *self.readers.values()):
            if not tie.flows:
                self._consume(hub, tie, min(self._window, SHARED_WINDOW))

    def _consume(self, hub: Hub, tie: Tie, window: int) -> None:
        assert self.sender is not None
        tie.ended = self.fail
        tie.consume(hub, self.sender, window)

    # What it reads by name

    def join(self, reader: NamedTie) -> NamedTie:
        """Subscribe to it, or with other options to what it reads already; the reader that is used."""
        text = reader.subscribed.filter
        before = self.readers.get(text)
        if before is not None and before.goes_on(reader):
            before.put(reader.subscribed)
            return before
        if before is not None:
            before.detach()
        self.readers[text] = reader
        return reader

    def part(self, text: str) -> None:
        """Unsubscribe: no more comes, and what is in its hands it may still answer. [MQTT-3.10.4-2, 3.10.4-3]"""
        self.release(text)
        reader = self.readers.pop(text)
        if isinstance(reader, QueueTie) and reader.leave(self.leaving.discard):
            self.leaving.add(reader)
        else:
            reader.detach()

    def _begun(self) -> dict[Tie, list[int]]:
        """What a client that is lost was working on. It answers in order [MQTT-4.6.0-2]: of each queue the first
        message that it has not answered."""
        begun: dict[Tie, list[int]] = {}
        for _, _, token in self.outbound.unanswered():
            if isinstance(token[0], QueueTie):
                begun.setdefault(token[0], [token[1]])
        return begun

    def prolong(self) -> None:
        """Leases of somebody who is connected do not run out, but those of queues that are not the door's own."""
        offsets: dict[Tie, list[int]] = {}
        for _, _, token in self.outbound.unanswered():
            if token[0] is not None and token[0].queue is not None and not isinstance(token[0], NamedTie):
                offsets.setdefault(token[0], []).append(token[1])
        for tie, held in offsets.items():
            if tie.attachment is not None:
                tie.attachment.extend(held, LEASE)

    def ties(self) -> list[Tie]:
        """All that may bring messages."""
        named = (*self.shares.values(), *self.readers.values(), *self.leaving)
        return [tie for tie in (self._live, self.own, *named) if tie is not None]

    def disconnect(self, *, lost: bool) -> None:
        """Nobody is here; `lost`: the client went without a word."""
        self.connection = None
        begun = self._begun() if lost else {}
        if self.sender is not None:
            if self.durable:
                self._untold = [asked for asked in self.sender.untold() if asked.wanted.qos]
            self.sender.closed = True
            self.sender = None
        for tie in self.ties():
            tie.detach(begun.get(tie, ()))
        self.leaving.clear()

    def fail(self, error: BrokerError) -> None:
        """Something that it needs has ended."""
        if self.connection is not None and error.code is not Code.SHUTTING_DOWN:
            self.connection.fail(error)


def own_queue(name: str, topics: tuple[str, ...], options: MqttOptions) -> Spec:
    """A queue of this door: the oldest goes when too much waits, and nothing is given up."""
    return Spec(
        name,
        Kind.QUEUE,
        topics,
        lease=LEASE,
        retry=FOREVER,
        max_messages=options.queued_messages,
        max_bytes=options.queued_bytes,
        overflow=Overflow.DROP_OLDEST,
    )


def named_tie(
    subscribed: Subscribed, hub: Hub, options: MqttOptions, asked: Properties | None = None
) -> NamedTie | None:
    """A reader by name, as it was kept or as a SUBSCRIBE with these properties asks for it; None where the filter is
    one of topics. Raises BAD_FILTER, and what `stream_tie` does."""
    if subscribed.filter.startswith(queues.PREFIX):
        return QueueTie(subscribed, options.queue_inflight)
    if subscribed.filter.startswith(streams.PREFIX):
        return streams.stream_tie(subscribed, hub, asked)
    return None


def share_tie(subscribed: Subscribed, queue: str) -> Tie:
    """A member's tie to its group."""
    filters = Filters()
    filters.put(subscribed)
    return Tie(filters, queue)
