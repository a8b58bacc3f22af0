"""Step 1 of the journey at the MQTT door: PUBLISH and PUBREL become units; receipts become PUBACK, PUBREC and PUBCOMP.

What one read of the socket brings is one unit, so that a commit answers a connection once, in the order of arrival
[MQTT-4.6.0-2, 4.6.0-3]. An inbound identifier of QoS 2 is committed with its message and forgotten with its PUBREL, so
that a message sent again is not stored again, whoever crashed meanwhile. Floor 4.
"""

import logging
from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError
from broker.core.message import Draft
from broker.core.mqtt import BY_QOS, packed
from broker.engine.base import Receipt, Set, Unit
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import NONE, V5, Ack, Properties, Publish
from broker.protocols.mqtt.codec.reasons import FROM_SERVER
from broker.protocols.mqtt.farewell import MAX_REASON
from broker.protocols.mqtt.flow.inbound import Do
from broker.protocols.mqtt.kept import inbound_key
from broker.retained import Retaining

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

logger = logging.getLogger(__name__)
_plain = Struct(">BBH").pack
PUBACK, PUBREC = 0x40, 0x50
Answers = list[int | bytes]
"""What a commit answers, in order: the identifier of a message with QoS 1, that of one with QoS 2 as a negative number,
or a packet."""


class Intake:
    """Takes what one connection publishes, for its session."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._session = connection.session
        self._hub = connection.server.hub
        self._principal = connection.identified
        self._version = connection.version
        self._max_body = self._hub.limits.max_body
        self._uncommitted = 0
        self._counts = connection.server.counts
        self._begin()

    def _begin(self) -> None:
        self._drafts: list[Draft] = []
        self._sets: list[Set] = []
        self._retained: list[Retaining] = []
        self._answers: Answers = []
        self._size = 0
        self._passing: list[Draft] = []

    # What comes

    def publish(self, packet: Publish) -> None:
        """PUBLISH. Raises MqttError for what ends the connection, BrokerError where an older client cannot be told."""
        topic, payload, qos, retain, _, packet_id, properties = packet
        connection = self._connection
        if qos:
            connection.quota.take(qos, packet_id)
        if properties:
            topic = connection.aliases.topic(packet)
        if qos == 2:
            do = self._session.inbound.publish(packet_id)
            if do is not Do.STORE:
                if do is Do.PUBREC:
                    self._answers.append(_plain(PUBREC, 2, packet_id))
                return
        try:
            if topic not in self._principal.topics:
                self._hub.check_publish(self._principal, topic)
            self._check_size(payload)
            if properties or retain or self._session.filters.no_local:
                draft = self._described(topic, payload, qos, retain, properties)
            else:
                draft = (topic, BY_QOS[qos], payload)
        except BrokerError as error:
            self._refuse(topic, qos, packet_id, error)
            return
        if retain:
            self._retain(draft, qos)
        elif qos:
            self._drafts.append(draft)
        else:
            self._passing.append(draft)
            return
        self._size += len(payload) + len(draft[1] or b"")
        if qos == 1:
            self._answers.append(packet_id)
        elif qos == 2:
            self._answers.append(-packet_id)
            if self._session.durable:
                self._sets.append(Set(inbound_key(self._session.client_id, packet_id), b""))

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._max_body:
            raise self._hub.limits.body_too_large(len(payload))

    def _described(self, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties) -> Draft:
        session = self._session
        sender = session.client_id if session.filters.no_local else None
        meta = packed(qos, retain, properties, int(self._hub.wall() * 1000), sender)
        draft = (topic, meta, payload)
        if retain:
            self._hub.retained.check(draft, self._principal.name)
        return draft

    def _retain(self, draft: Draft, qos: int) -> None:
        """It becomes the retained message of its topic with the same commit."""
        index = len(self._drafts)
        if qos or self._hub.engine.keeps(draft[0]):
            self._drafts.append(draft)
        else:
            self._passing.append(draft)
            index = -1
        self._retained.append(self._hub.retained.keep(self._sets, draft, index, self._principal.name))

    def release(self, ack: Ack) -> None:
        """PUBREL. Raises MqttError for an identifier whose PUBREC was not sent. [MQTT-4.3.3-11]"""
        known: list[int] = []
        unknown: list[int] = []
        for packet_id in ack.packet_ids:
            do = self._session.inbound.release(packet_id)
            self._connection.quota.give_2(packet_id)
            if do is Do.PUBCOMP_UNKNOWN and self._version == V5:
                unknown.append(packet_id)
            else:
                known.append(packet_id)
        if known:
            self._freed(known, encode(Ack(Kind.PUBCOMP, tuple(known)), self._version))
        if unknown:
            answers = [Ack(Kind.PUBCOMP, (i,), Reason.PACKET_IDENTIFIER_NOT_FOUND, NONE) for i in unknown]
            self._freed([], b"".join(encode(answer, V5) for answer in answers))

    def _freed(self, packet_ids: Sequence[int], packets: bytes) -> None:
        """Say so once it is on disk; of one that was free before, once that is."""
        if self._session.durable:
            sets = [Set(inbound_key(self._session.client_id, packet_id), None) for packet_id in packet_ids]
            self._connection.commit(Unit(sets=sets, sender=self._session), packets)
        else:
            self._connection.write(packets)

    def _refuse(self, topic: str, qos: int, packet_id: int, error: BrokerError) -> None:
        """A client of MQTT 5 is told in the answer. An older one cannot be told [MQTT-3.3.5-2]: what it sends to topics
        that are nobody's to publish to is dropped, as 4.7.2 advises; else it is let go, so that it does not believe
        that a message is safe which is not."""
        self._counts["refused"] += 1
        self._session.note(error, self._hub.wall())
        if not qos:
            return
        if self._version == V5:
            self._answers.append(self._refusal(qos, packet_id, error))
            return
        if not topic.startswith("$"):
            raise error
        if qos == 2:
            self._session.inbound.committed(packet_id)
        self._answers.append(packet_id if qos == 1 else _plain(PUBREC, 2, packet_id))

    def _refusal(self, qos: int, packet_id: int, error: BrokerError) -> bytes:
        kind = Kind.PUBACK if qos == 1 else Kind.PUBREC
        if qos == 1:
            self._connection.quota.give_1()
        else:
            self._session.inbound.failed(packet_id)
            self._connection.quota.give_2(packet_id)
        reason = Reason(error.kind.mqtt)
        if reason not in FROM_SERVER[kind]:
            reason = Reason.QUOTA_EXCEEDED if error.kind.http in (429, 503) else Reason.IMPLEMENTATION_SPECIFIC_ERROR
        said: Properties = {"reason_string": error.text[:MAX_REASON]}
        return self._connection.written(Ack(kind, (packet_id,), reason, said)) or b""

    # What becomes of it

    def submit(self) -> None:
        """Hand what was gathered from one read to the hub. Raises what the hub refuses at once."""
        relayed = bool(self._passing)
        if relayed:
            self._relay()
        if not (self._drafts or self._sets):
            if self._answers:
                self._answer(self._answers)
                self._begin()
            if relayed:
                self._connection.gate.taken(self._uncommitted)
            return
        unit = Unit(self._drafts, sender=self._session, principal=self._principal.name, sets=self._sets)
        unit.size = self._size
        weight = unit.weight()
        unit.done = self._done(self._answers, self._retained, weight)
        self._begin()
        self._waits(weight)
        try:
            self._hub.commit(unit)
        except BrokerError as error:
            done, unit.done = unit.done, None
            if done is not None:
                done(Receipt(error=error))
        self._connection.gate.taken(self._uncommitted)

    def _relay(self) -> None:
        """Nobody is told what becomes of QoS 0; what must be stored of it still takes this connection's part of
        memory until it is."""
        passing, self._passing = self._passing, []
        weight = 0

        def done(receipt: Receipt) -> None:
            self._waits(-weight)
            if receipt.error is not None:
                self._counts["refused"] += len(passing)

        try:
            weight = self._hub.relay(self._principal, passing, self._session, done)
        except BrokerError as error:
            self._counts["refused"] += len(passing)
            self._session.note(error, self._hub.wall())
        self._waits(weight)

    def _waits(self, weight: int) -> None:
        """So many bytes more wait for their commit."""
        self._uncommitted += weight
        if weight < 0:
            self._connection.gate.answered(self._uncommitted)

    def _done(self, answers: Answers, retained: list[Retaining], weight: int) -> Callable[[Receipt], None]:
        def done(receipt: Receipt) -> None:
            self._waits(-weight)
            if receipt.error is not None:
                self._failed(answers, receipt.error)
                return
            self._hub.retained.committed(receipt, retained)
            self._answer(answers)

        return done

    def _answer(self, answers: Answers) -> None:
        """One write for a whole commit."""
        count = 0
        pieces: list[bytes] = []
        for entry in answers:
            if type(entry) is bytes:
                pieces.append(entry)
            elif entry > 0:  # type: ignore[operator]
                count += 1
                pieces.append(_plain(PUBACK, 2, entry))
            else:
                self._session.inbound.committed(-entry)  # type: ignore[operator]
                pieces.append(_plain(PUBREC, 2, -entry))  # type: ignore[operator]
        if count:
            self._connection.quota.give_1(count)
        self._connection.write(b"".join(pieces))

    def _failed(self, answers: Answers, error: BrokerError) -> None:
        """Nothing of the unit was done."""
        self._counts["refused"] += len(answers)
        self._session.note(error, self._hub.wall())
        told = self._version == V5 and not error.kind.closes
        pieces: list[bytes] = []
        for entry in answers:
            if type(entry) is bytes:
                pieces.append(entry)
            elif told:
                pieces.append(self._refusal(1 if entry > 0 else 2, abs(entry), error))  # type: ignore[operator,arg-type]
            elif entry < 0:  # type: ignore[operator]
                self._session.inbound.failed(-entry)  # type: ignore[operator]
        if told:
            self._connection.write(b"".join(pieces))
        else:
            self._connection.fail(error)
