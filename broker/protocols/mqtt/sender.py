"""Step 4 of the journey at the MQTT door: rows become PUBLISH packets of one connection, one write per delivery.

With QoS 1 and 2 they get packet identifiers and are answered. Of a session that is kept, an identifier of QoS 2 is
committed with the offset of its message before the packet is sent, and what the receiver said of it before it is
answered, so that it is delivered once, whoever crashes meanwhile [MQTT-4.3.3]. Floor 4.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError
from broker.core.message import NAMED, Row, made_id
from broker.core.mqtt import ID, PLAIN, Heard, first_topic
from broker.core.subscription import Outcome
from broker.engine.base import Receipt, Settle, Unit
from broker.hub import Hub
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.fanout import Fanout, written_user
from broker.protocols.mqtt.codec.packets import NONE, V5, Ack
from broker.protocols.mqtt.encoded import Encoded, encoded
from broker.protocols.mqtt.filters import Wanted
from broker.protocols.mqtt.flow.aliases import AliasesOut
from broker.protocols.mqtt.flow.outbound import Outbound, Step
from broker.protocols.mqtt.kept import forgotten_outbound, outbound
from broker.protocols.mqtt.parcel import Asked, Parcel, Token, Waiting
from broker.protocols.mqtt.tie import NamedTie, Tie

if TYPE_CHECKING:
    from broker.protocols.mqtt.session import Session

PIECE, ROW_BYTES = 64 << 10, 64
"""Bytes of what waits that are written before others have their turn, and what a message counts beside topic and
body."""
_UNWANTED = Wanted(2, False, b"")
"""What was in flight is sent again, whatever has become of its subscription."""
UNBOUNDED = 1 << 28
"""What a client takes that does not say: the protocol knows no larger packet."""
ALIAS_BYTES = 3
_id = Struct(">H").pack
_id_with_gap = Struct(">Hx").pack
"""A packet identifier; with the length of no properties behind it."""


class Sender:
    """See the module. `write` sends bytes; `largest`: packets over this many bytes are not sent [MQTT-3.1.2-25];
    `identified`: every message comes with its id."""

    def __init__(
        self,
        session: "Session",
        hub: Hub,
        encoded: Encoded,
        write: Callable[[bytes], None],
        *,
        version: int,
        largest: int,
        aliases: int,
        identified: bool = False,
    ) -> None:
        self.full = False
        self.closed = False
        self._session = session
        self._hub = hub
        self._encoded = encoded
        self._write = write
        self._version = version
        self._largest = largest
        self._aliases = AliasesOut(aliases) if aliases else None
        self._identified = identified
        self._outbound: Outbound[Token] = session.outbound
        self._waiting: deque[Waiting] = deque()
        self._again: list[tuple[int, int, Row]] = []  # retained messages that were in flight before, the first last
        self._asked_for: deque[Asked] = deque()  # retained messages that were not looked up yet
        self._found: Asked | None = None  # those that were looked up last
        self._goes_on = False  # soon
        self._behind: list[bytes] | None = None  # packets that wait for the last commit under way
        self._id = _id_with_gap if version == V5 else _id

    # Out

    def take_first(self, tie: Tie, rows: Sequence[Row]) -> None:
        """What has its identifier already, before what waits for one."""
        self._waiting.extendleft([(tie, row, None) for row in reversed(rows)])
        self._drain()

    def take(self, tie: Tie, rows: Sequence[Row]) -> None:
        """What the engine delivers."""
        if self._waiting or tie.known or isinstance(tie, NamedTie):
            self._waiting.extend([(tie, row, None) for row in rows])
            self._drain()
            return
        parcel = Parcel()
        out, done, outbound, start_of = parcel.out, parcel.done, self._outbound, self._encoded.start
        gap, rest = (b"\0", 1) if self._version == V5 else (b"", 0)
        limited = self._aliases is not None or self._largest < UNBOUNDED or self._identified
        topic, wanted = "", None
        for at, row in enumerate(rows):
            offset, name, _, meta, body = row
            if name is not topic:
                topic, wanted = name, tie.wanted(row)
            published = PLAIN.get(meta, -1)
            if wanted is None:
                done.append(offset)
                continue
            if published < 0 or wanted.own or limited:
                sent = self._special(tie, row, wanted, parcel)
            elif not (qos := min(wanted.qos, published)):
                out += (start_of(0x30, topic, rest + len(body)), gap, body)
                done.append(offset)
                continue
            elif sent := outbound.room > 0:
                packet_id = outbound.send(qos, (tie, offset))
                out += (start_of(0x30 | qos << 1, topic, rest + 2 + len(body)), self._id(packet_id), body)
                if qos == 2 and self._session.durable:
                    parcel.kept.append((packet_id, None if tie.queue is None else offset))
            if not sent:
                self._waiting.extend([(tie, row, None) for row in rows[at:]])
                rows = rows[:at]
                break
        self._send(parcel)
        tie.settle(done)
        tie.free(0, sum([len(row[4]) for row in rows]))

    def _send(self, parcel: Parcel) -> None:
        """In order, although some wait for the disk."""
        if parcel.kept:
            self._commit_then_send(parcel)
        elif self._behind is not None:
            self._behind += parcel.out
        elif parcel.out:
            self._write(b"".join(parcel.out))

    def _commit_then_send(self, parcel: Parcel) -> None:
        client, out = self._session.client_id, parcel.out
        sets = [outbound(client, packet_id, offset) for packet_id, offset in parcel.kept]
        self._behind = out

        def then() -> None:
            if self._behind is out:
                self._behind = None
            self._write(b"".join(out))
            self._drain()

        self._commit(Unit(sets=sets, sender=self._session), then)

    def _commit(self, unit: Unit, then: Callable[[], None]) -> None:
        """Do this once the unit is on disk, if the client is still there."""

        def done(receipt: Receipt) -> None:
            if receipt.error is not None:
                self._session.fail(receipt.error)
            elif not self.closed:
                then()

        unit.done = done
        try:
            self._hub.commit(unit)
        except BrokerError as error:
            self._session.fail(error)

    def _special(self, tie: Tie | None, row: Row, wanted: Wanted, parcel: Parcel) -> bool:
        """A message that is more than topic and body, or in flight already, or for a client with wishes; False when no
        packet identifier is free for it."""
        offset = row[0]
        heard, fanout = self._encoded.heard(row, self._now())
        again = tie.known.get(offset) if tie is not None else None
        if again is None:
            asked = self._asked(tie, row, heard, wanted)
            own = self._own(row, asked) if asked is not None else b""
            if asked is None or self._is_too_large(fanout, own):
                parcel.done.append(offset)
                return True
            wanted, qos = asked, min(heard.qos, asked.qos)
            if qos and not self._has_room(tie, offset):
                return False
            packet_id = self._outbound.send(qos, (tie, offset) if tie is not None else (None, row)) if qos else 0
        else:
            assert tie is not None
            packet_id, qos = again
            own = self._own(row, wanted)
            if self._is_too_large(fanout, own):  # for who is here now [MQTT-3.1.2-24, 3.1.2-25]
                del tie.known[offset]
                self._give_up(packet_id)
                parcel.done.append(offset)
                return True
            if not self._outbound.send_again(packet_id):
                return False
            del tie.known[offset]
        alias, named = (0, True) if self._aliases is None else self._aliases.alias(row[1])
        retain = tie is None or (heard.retain and wanted.retain_as_published)
        dup = again is not None
        parcel.out.append(
            fanout.packet(self._version, qos, retain, packet_id, dup=dup, alias=alias, named=named, own=own)
        )
        if not qos:
            parcel.done.append(offset)
        elif qos == 2 and again is None and self._session.durable:
            parcel.kept.append((packet_id, None if tie is None or tie.queue is None else offset))
        return True

    def _give_up(self, packet_id: int) -> None:
        """What was in flight will not be sent again: its identifier is free."""
        self._outbound.forget((packet_id,))
        self._forget((packet_id,))

    def _has_room(self, tie: Tie | None, offset: int) -> bool:
        """For a message that is sent for the first time: of the same reader goes first what was in flight before, but
        not what lies behind this one and would be waited for in vain."""
        outbound = self._outbound
        if outbound.room:
            return True
        return outbound.spare > 0 and all(
            later is not tie or (isinstance(place, int) and offset < place) for later, place in outbound.later()
        )

    def _own(self, row: Row, wanted: Wanted) -> bytes:
        """What this client alone is told: its subscription identifiers, and the id that we made if it wants it. What is
        in no log has none."""
        if self._version != V5:
            return b""
        offset, _, at, meta, _ = row
        if not self._identified or not offset or (meta is not None and meta[0] & NAMED):
            return wanted.own
        return wanted.own + written_user(ID, made_id(self._hub.engine.epoch, offset, at))

    def _named(self, tie: NamedTie, row: Row, parcel: Parcel) -> bool:
        """A message of a queue or stream that is read by name; False when no packet identifier is free for it."""
        offset, asked = row[0], tie.asked
        if not tie.holds(offset):
            tie.free(1, 0)
            return True
        if asked.qos and not self._outbound.spare:
            return False
        topic = first_topic(row)
        now = self._now()
        heard, fanout = encoded(row, topic, now)
        left = heard.left(now)
        if left is not None and left <= 0:
            parcel.done.append(offset)
            return True
        note = tie.note(row)
        own = self._own(row, asked) + note if self._version == V5 else b""
        if self._is_too_large(fanout, own):
            soon = asyncio.get_running_loop().call_soon  # what is refused may come again in the same breath
            soon(tie.refuse, (offset,), Reason.PACKET_TOO_LARGE, f"it takes no packets over {self._largest} bytes")
            return True
        packet_id = self._outbound.send(asked.qos, (tie, offset)) if asked.qos else 0
        alias, named = (0, True) if self._aliases is None else self._aliases.alias(topic)
        retain = heard.retain and asked.retain_as_published
        parcel.out.append(fanout.packet(self._version, asked.qos, retain, packet_id, alias=alias, named=named, own=own))
        if not asked.qos:
            parcel.done.append(offset)
        return True

    def _asked(self, tie: Tie | None, row: Row, heard: Heard, wanted: Wanted) -> Wanted | None:
        """What holds for a message that this client published itself; None for one that it is spared, or too late."""
        left = heard.left(self._now())
        if left is not None and left <= 0:
            return None
        if tie is not None and heard.sender == self._session.client_id:
            return tie.filters.wanted(row[1], own=True)
        return wanted

    def _is_too_large(self, fanout: Fanout, own: bytes) -> bool:
        """Even without an alias, which only makes it smaller once it has been told."""
        if self._largest >= UNBOUNDED:
            return False
        size = len(fanout.packet(self._version, 1, packet_id=1, own=own)) + (ALIAS_BYTES if self._aliases else 0)
        if size <= self._largest:
            return False
        self._encoded.oversized += 1
        return True

    def _now(self) -> int:
        return int(self._hub.wall() * 1000)

    def retained(self, asked: Sequence[Asked]) -> None:
        """Retained messages for new subscriptions, after their SUBACK. One filter is looked up at a time, once
        what the one before it found is on its way: they cost little memory, and others no time. [MQTT-3.3.1-8]"""
        self._asked_for.extend(asked)
        if not self._goes_on:
            self._go_on()

    def _go_on(self) -> None:
        self._goes_on = False
        if self._asked_for and not self._waiting and not self.closed:
            self._found = asked = self._asked_for.popleft()
            self._waiting.extend([(None, row, asked.wanted) for row in asked.rows(self._now())])
        self._drain()

    @property
    def asked_for(self) -> int:
        """Filters whose retained messages were not looked up yet."""
        return len(self._asked_for)

    def untold(self) -> list[Asked]:
        """Retained messages that were asked for and not sent."""
        left = frozenset(row[1] for tie, row, _ in self._waiting if tie is None)
        if self._found is None or not left:
            return list(self._asked_for)
        return [self._found._replace(topics=left), *self._asked_for]

    def resume(self) -> None:
        """The socket takes more."""
        self.full = False
        self._drain()

    def again(self, retained: Sequence[tuple[int, int, Row]]) -> None:
        """Retained messages (identifier, QoS, row) that the last connection left unanswered, as far as the client
        takes them; the others before all else that waits."""
        self._again = [*reversed(retained)]
        self._drain()

    def _repeat(self, parcel: Parcel) -> None:
        """Of those, what there is room for and was not answered meanwhile."""
        while self._again:
            packet_id, qos, row = self._again[-1]
            if self._outbound.waits(packet_id):
                if not self._outbound.send_again(packet_id):
                    return
                fanout = self._encoded.heard(row, self._now())[1]
                parcel.out.append(fanout.packet(self._version, qos, True, packet_id, dup=True))
            self._again.pop()

    def _drain(self) -> None:
        """Send what waits as far as identifiers are free and the socket takes it; in the order in which it came, and in
        pieces, between which others have their turn."""
        if self.full or self.closed:
            return
        if (self._again or self._waiting) and not self._drain_piece():
            return
        if (self._waiting or self._asked_for) and not self._goes_on:
            self._goes_on = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _drain_piece(self) -> bool:
        """False when no identifier is free, or the rest waits behind a commit."""
        waiting = self._waiting
        parcel, size, free = Parcel(), 0, True
        settled: dict[Tie, list[int]] = {}
        freed: dict[Tie, int] = {}
        self._repeat(parcel)
        while waiting and size < PIECE:
            tie, row, wanted = waiting[0]
            if not self._next(tie, row, wanted, parcel):
                free = False
                break
            waiting.popleft()
            size += ROW_BYTES + len(row[1]) + len(row[4])
            done, parcel.done = parcel.done, []
            if tie is not None:
                freed[tie] = freed.get(tie, 0) + len(row[4])
                settled.setdefault(tie, []).extend(done)
        self._send(parcel)
        for freed_tie, count in freed.items():
            freed_tie.settle(settled[freed_tie])
            freed_tie.free(0, count)
        return free and self._behind is None

    def _next(self, tie: Tie | None, row: Row, wanted: Wanted | None, parcel: Parcel) -> bool:
        """Of what waits; False when no packet identifier is free for it. What its reader let go of meanwhile is passed
        over: of a group, another member has it. [MQTT-3.10.4-2]"""
        if isinstance(tie, NamedTie):
            return self._named(tie, row, parcel)
        if tie is not None:
            wanted = (tie.wanted(row) if tie.flows else None) or (_UNWANTED if row[0] in tie.known else None)
        if wanted is None:
            parcel.done.append(row[0])
            return True
        return self._special(tie, row, wanted, parcel)

    # Answers

    def answered(self, ack: Ack) -> None:
        """PUBACK, PUBREC or PUBCOMP. Raises MqttError for one that cannot be. [MQTT-4.3.2-3, 4.3.3-4, 4.3.3-5]"""
        step = self._outbound.on(ack)
        self._settle(step.settled)
        for tie, offsets in _by_tie(step.refused):
            said = ack.properties.get("reason_string") or ack.reason.name.lower().replace("_", " ")
            tie.refuse(offsets, ack.reason, said)
        if step.refused and ack.kind is Kind.PUBREC:
            self._forget(ack.packet_ids)
        if step.released:
            self._release(step)
        if step.finished:
            self._forget(step.finished)
        if step.unknown:
            reason = Reason.PACKET_IDENTIFIER_NOT_FOUND if self._version == V5 else Reason.SUCCESS
            for packet_id in step.unknown:
                self._write(encode(Ack(Kind.PUBREL, (packet_id,), reason, NONE), self._version))
        if self._again or self._waiting:
            self._drain()
        if step.fault is not None:
            raise step.fault

    def _settle(self, tokens: Sequence[Token]) -> None:
        for tie, offsets in _by_tie(tokens):
            tie.settle(offsets)

    def _release(self, step: Step[Token]) -> None:
        """The receiver has them: settled, and noted that only PUBREL is left, before PUBREL is sent."""
        packets = encode(Ack(Kind.PUBREL, tuple(packet_id for packet_id, _ in step.released)), self._version)
        unit = Unit(sender=self._session)
        for packet_id, token in step.released:
            if self._session.durable:
                unit.sets.append(outbound(self._session.client_id, packet_id, None))
            if token is None:
                continue
            if token[0] is None or (queue := token[0].queue) is None:
                self._settle([token])
                continue
            tie, offset = token
            unit.settles += self._settles(tie, queue, offset)
            tie.free(1, 0)
        if unit.sets:
            self._commit(unit, partial(self._write, packets))
        else:
            self._write(packets)

    def _settles(self, tie: Tie, queue: str, offset: int) -> list[Settle]:
        """None where its queue has let go of it: it expired, was dropped, or is not subscribed to any more."""
        lease = tie.lease(offset)
        if not lease:
            tie.known.pop(offset, None)
            try:
                there = self._hub.engine.outstanding(queue, [offset])
            except BrokerError:
                return []
            if not there:
                return []
        return [Settle(queue, Outcome.ACK, offset, lease or None)]

    def _forget(self, packet_ids: Sequence[int]) -> None:
        """Identifiers of QoS 2 that are free again; a crash before it is noted costs a PUBREL too many."""
        if self._session.durable:
            client = self._session.client_id
            sets = [forgotten_outbound(client, packet_id) for packet_id in packet_ids]
            self._commit(Unit(sets=sets, sender=self._session), lambda: None)

    def release_again(self, packet_ids: Sequence[int]) -> None:
        """On a new connection: PUBREL for what the receiver has. [MQTT-4.4.0-1]"""
        if packet_ids:
            self._write(encode(Ack(Kind.PUBREL, tuple(packet_ids)), self._version))

    @property
    def waiting(self) -> int:
        """Messages for which no identifier is free."""
        return len(self._waiting)


def _by_tie(tokens: Sequence[Token]) -> Iterable[tuple[Tie, list[int]]]:
    by_tie: dict[Tie, list[int]] = {}
    for token in tokens:
        if token[0] is not None:
            by_tie.setdefault(token[0], []).append(token[1])
    return by_tie.items()
