"""Step 4 of the journey at the MQTT door: rows become PUBLISH packets of one connection, one write per delivery.

With QoS 1 and 2 they get packet identifiers and are answered. Of a session that is kept, an identifier of QoS 2 is
committed with the offset of its message before the packet is sent, and what the receiver said of it before it is
answered, so that it is delivered once, whoever crashes meanwhile [MQTT-4.3.3]. Floor 4.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from broker.core.errors import BrokerError
from broker.core.message import EXPIRES, Row
from broker.core.subscription import Outcome
from broker.engine.base import Receipt, Set, Settle, Unit
from broker.hub import Hub
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.fanout import Fanout
from broker.protocols.mqtt.codec.packets import NONE, V5, Ack
from broker.protocols.mqtt.codec.publication import publish_start
from broker.protocols.mqtt.codec.topics import write_name
from broker.protocols.mqtt.filters import Wanted
from broker.protocols.mqtt.flow.aliases import AliasesOut
from broker.protocols.mqtt.flow.outbound import Outbound, Step
from broker.protocols.mqtt.kept import outbound_key, packed_offset
from broker.protocols.mqtt.meaning import PLAIN, Heard
from broker.protocols.mqtt.tie import Tie

if TYPE_CHECKING:
    from broker.protocols.mqtt.session import Session

Token = tuple[Tie, int] | tuple[None, Row]
"""What is in flight: the tie that brought it and its offset; or a retained message, which no tie brings again."""
Waiting = tuple[Tie, Row, None] | tuple[None, Row, Wanted]
"""What no identifier is free for; of a retained message also how it was asked for."""
MAX_STARTS = 10_000
MAX_HEARD = 1_000
_UNWANTED = Wanted(2, False, b"")
"""What was in flight is sent again, whatever has become of its subscription."""
_ID: Final = (Struct(">H").pack, Struct(">HB").pack)


class Encoded:
    """What all connections share of the work: beginnings of packets, and messages with properties, encoded once."""

    def __init__(self) -> None:
        self._starts: dict[tuple[int, str, int], bytes] = {}
        self._heard: dict[int, tuple[Row, Heard, Fanout]] = {}
        self.oversized = 0
        """Messages that were too large for a client."""

    def start(self, head: int, topic: str, size: int) -> bytes:
        """A packet's beginning up to its topic, `size` bytes before its end."""
        key = (head, topic, size)
        start = self._starts.get(key)
        if start is None:
            if len(self._starts) >= MAX_STARTS:
                self._starts.clear()
            start = self._starts[key] = publish_start(head, write_name(topic), size)
        return start

    def heard(self, row: Row, now: int) -> tuple[Heard, Fanout]:
        """The same message to several subscribers is looked at once."""
        found = self._heard.get(id(row))
        if found is not None:
            return found[1:]
        heard = Heard(row)
        properties = heard.properties
        left = heard.left(now)
        if left is not None:
            properties = {**properties, "message_expiry": max(0, left)}
        if len(self._heard) >= MAX_HEARD:
            self._heard.clear()
        fanout = Fanout(row[1], row[4], properties)
        self._heard[id(row)] = (row, heard, fanout)
        return heard, fanout

    def forget(self) -> None:
        """Time has passed: what was left of an expiry is less now."""
        self._heard.clear()


class Sender:
    """See the module. `write` sends bytes; `largest`: packets over this many bytes are not sent [MQTT-3.1.2-25]."""

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
        self._outbound: Outbound[Token] = session.outbound
        self._waiting: deque[Waiting] = deque()
        self._behind: list[bytes] | None = None  # packets that wait for the last commit under way
        self._id = _ID[version == V5]

    # Out

    def take(self, tie: Tie, rows: Sequence[Row]) -> None:
        """What the engine delivers."""
        if self._waiting or tie.known:
            self._waiting.extend([(tie, row, None) for row in rows])
            self._drain()
            return
        out: list[bytes] = []
        kept: list[tuple[int, int]] = []  # QoS 2: identifier, offset
        done: list[int] = []
        start_of, largest, version, own_id = self._encoded.start, self._largest, self._version, self._id
        gap, rest = (b"\0", 1) if version == V5 else (b"", 0)
        topic, wanted = "", None
        size = 0
        for at, row in enumerate(rows):
            offset, name, _, meta, body = row
            if name is not topic:
                topic, wanted = name, tie.wanted(row)
            size += len(body)
            published = PLAIN.get(meta, -1)
            if wanted is None:
                done.append(offset)
            elif published < 0 or wanted.own or self._aliases is not None or len(body) + len(topic) * 4 + 16 > largest:
                if not self._special(tie, row, wanted, out, kept, done):
                    self._waiting.extend([(tie, row, None) for row in rows[at:]])
                    break
            else:
                qos = min(wanted.qos, published)
                if not qos:
                    out += (start_of(0x30, topic, rest + len(body)), gap, body)
                    done.append(offset)
                elif not self._outbound.room:
                    self._waiting.extend([(tie, row, None) for row in rows[at:]])
                    break
                else:
                    packet_id = self._outbound.send(qos, (tie, offset))
                    pieces = (
                        start_of(0x30 | qos << 1, topic, rest + 2 + len(body)),
                        own_id(packet_id, 0) if rest else own_id(packet_id),
                        body,
                    )
                    out += pieces
                    if qos == 2 and tie.queue is not None:
                        kept.append((packet_id, offset))
        self._finish(tie, out, kept, done, size)

    def _finish(
        self,
        tie: Tie | None,
        out: list[bytes],
        kept: list[tuple[int, int]],
        done: list[int],
        size: int,
    ) -> None:
        if kept:
            self._commit_then_send(kept, out)
        elif self._behind is not None:
            self._behind += out  # in order, although some wait for the disk
        elif out:
            self._write(b"".join(out))
        if tie is not None:
            tie.settle(done)
            tie.free(0, size)

    def _commit_then_send(self, kept: list[tuple[int, int]], out: list[bytes]) -> None:
        client = self._session.client_id
        sets = [Set(outbound_key(client, packet_id), packed_offset(offset)) for packet_id, offset in kept]
        self._behind = out

        def then() -> None:
            if self._behind is out:
                self._behind = None
            self._write(b"".join(out))

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

    def _special(
        self,
        tie: Tie | None,
        row: Row,
        wanted: Wanted,
        out: list[bytes],
        kept: list[tuple[int, int]],
        done: list[int],
    ) -> bool:
        """A message with properties, an alias, an identifier from before, or too large; False when no packet
        identifier is free for it."""
        now = int(self._hub.wall() * 1000)
        offset = row[0]
        heard, fanout = self._encoded.heard(row, now)
        again = tie.known.pop(offset, None) if tie is not None else None
        if heard.sender is not None and heard.sender == self._session.client_id and tie is not None:
            own = tie.filters.wanted(row[1], own=True)
            if own is None:
                done.append(offset)
                return True
            wanted = own
        left = heard.left(now)
        if left is not None and left <= 0 and row[3] is not None and row[3][0] & EXPIRES and again is None:
            done.append(offset)
            return True
        qos = min(heard.qos, wanted.qos) if again is None else again[1]
        if qos and again is None and not self._outbound.room:
            return False
        retain = tie is None or (heard.retain and wanted.retain_as_published)
        own_properties = wanted.own if self._version == V5 else b""
        alias, named = (0, True) if self._aliases is None else self._aliases.alias(row[1])
        size = len(fanout.packet(self._version, qos, retain, 1, alias=alias, named=named, own=own_properties))
        if size > self._largest:
            self._encoded.oversized += 1
            done.append(offset)
            return True
        packet_id = 0
        if qos:
            packet_id = (
                again[0]
                if again is not None
                else self._outbound.send(qos, (tie, offset) if tie is not None else (None, row))
            )
        packet = fanout.packet(
            self._version, qos, retain, packet_id, dup=again is not None, alias=alias, named=named, own=own_properties
        )
        if not qos:
            done.append(offset)
        out.append(packet)
        if qos == 2 and tie is not None and tie.queue is not None and again is None:
            kept.append((packet_id, offset))
        return True

    def retained(self, rows: Sequence[tuple[Row, Wanted]]) -> None:
        """Retained messages for a new subscription, after its SUBACK. [MQTT-3.3.1-8]"""
        self._waiting.extend([(None, row, wanted) for row, wanted in rows])
        self._drain()

    def again(self, retained: Sequence[tuple[int, int, Row]]) -> None:
        """Retained messages (identifier, QoS, row) that the last connection left unanswered."""
        now = int(self._hub.wall() * 1000)
        out = [
            self._encoded.heard(row, now)[1].packet(self._version, qos, True, packet_id, dup=True)
            for packet_id, qos, row in retained
        ]
        if out:
            self._write(b"".join(out))

    def _drain(self) -> None:
        """Send what waits as far as identifiers are free; in the order in which it came."""
        waiting = self._waiting
        out: list[bytes] = []
        kept: list[tuple[int, int]] = []
        settled: dict[Tie, list[int]] = {}
        freed: dict[Tie, int] = {}
        while waiting:
            tie, row, wanted = waiting[0]
            done: list[int] = []
            if tie is not None:
                wanted = tie.wanted(row) or (_UNWANTED if row[0] in tie.known else None)
            if wanted is None:
                done.append(row[0])
            elif not self._special(tie, row, wanted, out, kept, done):
                break
            waiting.popleft()
            if tie is not None:
                freed[tie] = freed.get(tie, 0) + len(row[4])
                settled.setdefault(tie, []).extend(done)
        self._finish(None, out, kept, [], 0)
        for freed_tie, size in freed.items():
            freed_tie.settle(settled[freed_tie])
            freed_tie.free(0, size)

    # Answers

    def answered(self, ack: Ack) -> None:
        """PUBACK, PUBREC or PUBCOMP. Raises MqttError for one that cannot be. [MQTT-4.3.2-3, 4.3.3-4, 4.3.3-5]"""
        step = self._outbound.on(ack)
        self._settle(step.settled)
        self._settle(step.refused)
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
        if self._waiting:
            self._drain()
        if step.fault is not None:
            raise step.fault

    def _settle(self, tokens: Sequence[Token]) -> None:
        by_tie: dict[Tie, list[int]] = {}
        for token in tokens:
            if token[0] is not None:
                by_tie.setdefault(token[0], []).append(token[1])
        for tie, offsets in by_tie.items():
            tie.settle(offsets)

    def _release(self, step: Step[Token]) -> None:
        """The receiver has them: settled, and noted that only PUBREL is left, before PUBREL is sent."""
        packets = encode(Ack(Kind.PUBREL, tuple(packet_id for packet_id, _ in step.released)), self._version)
        unit = Unit(sender=self._session)
        for packet_id, token in step.released:
            if token[0] is None or (queue := token[0].queue) is None:
                self._settle([token])
                continue
            tie, offset = token
            unit.settles.append(Settle(queue, Outcome.ACK, offset, tie.lease(offset)))
            unit.sets.append(Set(outbound_key(self._session.client_id, packet_id), b""))
            tie.free(1, 0)
        if unit.sets:
            self._commit(unit, partial(self._write, packets))
        else:
            self._write(packets)

    def _forget(self, packet_ids: Sequence[int]) -> None:
        """Identifiers of QoS 2 that are free again; a crash before it is noted costs a PUBREL too many."""
        if self._session.durable:
            client = self._session.client_id
            sets = [Set(outbound_key(client, packet_id), None) for packet_id in packet_ids]
            self._commit(Unit(sets=sets, sender=self._session), lambda: None)

    def release_again(self, packet_ids: Sequence[int]) -> None:
        """On a new connection: PUBREL for what the receiver has. [MQTT-4.4.0-1]"""
        if packet_ids:
            self._write(encode(Ack(Kind.PUBREL, tuple(packet_ids)), self._version))

    @property
    def waiting(self) -> int:
        """Messages for which no identifier is free."""
        return len(self._waiting)
