"""Messages that we sent with QoS 1 or 2 and the receiver has not answered for good (§4.3.2, §4.3.3, §4.9)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Final, Generic, TypeVar

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.error import MqttError, forbidden
from broker.protocols.mqtt.codec.packets import Ack

MAX_PACKET_ID = 65_535

T = TypeVar("T")


class Sent(IntEnum):
    """What a packet identifier stands for."""

    QOS_1 = auto()
    QOS_2 = auto()
    RELEASED = auto()


class Answer(IntEnum):
    """What the receiver says of it; a refusal has a reason code of 0x80 or more."""

    PUBACK = auto()
    PUBACK_REFUSED = auto()
    PUBREC = auto()
    PUBREC_REFUSED = auto()
    PUBCOMP = auto()


class Do(Enum):
    """What follows."""

    SETTLE = auto()
    REFUSE = auto()
    RELEASE = auto()
    FORGET = auto()
    DENY = auto()
    IGNORE = auto()
    BREACH = auto()


TABLE: Final[dict[tuple[Sent | None, Answer], tuple[Sent | None, Do]]] = {
    (Sent.QOS_1, Answer.PUBACK): (None, Do.SETTLE),
    (Sent.QOS_1, Answer.PUBACK_REFUSED): (None, Do.REFUSE),
    (Sent.QOS_1, Answer.PUBREC): (Sent.QOS_1, Do.BREACH),
    (Sent.QOS_1, Answer.PUBREC_REFUSED): (Sent.QOS_1, Do.BREACH),
    (Sent.QOS_1, Answer.PUBCOMP): (Sent.QOS_1, Do.BREACH),
    (Sent.QOS_2, Answer.PUBACK): (Sent.QOS_2, Do.BREACH),
    (Sent.QOS_2, Answer.PUBACK_REFUSED): (Sent.QOS_2, Do.BREACH),
    (Sent.QOS_2, Answer.PUBREC): (Sent.RELEASED, Do.RELEASE),
    (Sent.QOS_2, Answer.PUBREC_REFUSED): (None, Do.REFUSE),
    (Sent.QOS_2, Answer.PUBCOMP): (Sent.QOS_2, Do.BREACH),
    (Sent.RELEASED, Answer.PUBACK): (Sent.RELEASED, Do.BREACH),
    (Sent.RELEASED, Answer.PUBACK_REFUSED): (Sent.RELEASED, Do.BREACH),
    (Sent.RELEASED, Answer.PUBREC): (Sent.RELEASED, Do.RELEASE),
    (Sent.RELEASED, Answer.PUBREC_REFUSED): (Sent.RELEASED, Do.BREACH),
    (Sent.RELEASED, Answer.PUBCOMP): (None, Do.FORGET),
    (None, Answer.PUBACK): (None, Do.IGNORE),
    (None, Answer.PUBACK_REFUSED): (None, Do.IGNORE),
    (None, Answer.PUBREC): (None, Do.DENY),
    (None, Answer.PUBREC_REFUSED): (None, Do.IGNORE),
    (None, Answer.PUBCOMP): (None, Do.IGNORE),
}
"""Every pair there is; None is an identifier that is not in use."""


@dataclass(slots=True)
class Step(Generic[T]):
    """What an acknowledgement means for the messages it names.

    settled: QoS 1, the receiver has them [MQTT-4.3.2-3].
    refused: it will not have them, and they are not sent again [MQTT-4.4.0-2].
    released: QoS 2, it has them: settle them, commit that, then send PUBREL for these identifiers
      [MQTT-4.3.3-4, 4.3.3-6]. One that the receiver repeats itself about is here again, without its message.
    finished: identifiers of QoS 2 that are free again and need no longer be remembered.
    unknown: identifiers to send PUBREL 0x92 for.
    fault: then the connection ends, after what came before it was done.
    """

    settled: list[T] = field(default_factory=list)
    refused: list[T] = field(default_factory=list)
    released: list[tuple[int, T | None]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    fault: MqttError | None = None


class Outbound(Generic[T]):
    """The messages in flight to one receiver, each with whatever the caller knows it by. `receive_maximum` is the
    receiver's: no more than that many are in flight. What the last connection left, `sent`, is so again only when it
    was sent on this one, whose receiver may take fewer. Identifiers go round, so that one that has just become free is
    not used at once."""

    __slots__ = ("_last", "_later", "_sent", "receive_maximum")

    def __init__(self, receive_maximum: int = MAX_PACKET_ID, sent: Iterable[tuple[int, Sent, T]] = ()) -> None:
        self.receive_maximum = receive_maximum
        self._sent: dict[int, tuple[Sent, T]] = {packet_id: (state, token) for packet_id, state, token in sent}
        self._later = {packet_id for packet_id, (state, _) in self._sent.items() if state is not Sent.RELEASED}
        self._last = max(self._sent, default=0)

    @property
    def room(self) -> int:
        """How many more may be sent now, behind all that was in flight before. [MQTT-3.3.4-7, 4.9.0-1, 4.9.0-2]"""
        return max(0, self.receive_maximum - len(self._sent))

    @property
    def spare(self) -> int:
        """The same for what goes before it."""
        used = len(self._sent)
        return max(0, min(self.receive_maximum - used + len(self._later), MAX_PACKET_ID - used))

    def later(self) -> Iterator[T]:
        """What was in flight before and was not sent on this connection yet."""
        return (self._sent[packet_id][1] for packet_id in self._later)

    def send(self, qos: int, token: T) -> int:
        """The identifier for a message that is sent with QoS 1 or 2. Raises ValueError where there is no room.
        [MQTT-2.2.1-4, 4.3.2-1, 4.3.3-1]"""
        sent = self._sent
        if len(sent) >= self.receive_maximum and not self.spare:
            raise ValueError(f"{len(sent)} messages are in flight, the receiver takes {self.receive_maximum}")
        packet_id = self._last % MAX_PACKET_ID + 1
        while packet_id in sent:
            packet_id = packet_id % MAX_PACKET_ID + 1
        self._last = packet_id
        sent[packet_id] = (Sent.QOS_1 if qos == 1 else Sent.QOS_2, token)
        return packet_id

    def waits(self, packet_id: int) -> bool:
        """Is it of the last connection, and neither sent on this one nor answered?"""
        return packet_id in self._later

    def send_again(self, packet_id: int) -> bool:
        """What the last connection left is sent on this one; False where there is no room for it yet."""
        if packet_id in self._later:
            if len(self._sent) - len(self._later) >= self.receive_maximum:
                return False
            self._later.discard(packet_id)
        return True

    def on(self, ack: Ack) -> Step[T]:
        """Take note of a PUBACK, PUBREC or PUBCOMP."""
        step: Step[T] = Step()
        answer = _answer(ack)
        if self._later:
            self._later.difference_update(ack.packet_ids)
        for packet_id in ack.packet_ids:
            entry = self._sent.get(packet_id)
            after, do = TABLE[entry and entry[0], answer]
            if do is Do.BREACH:
                step.fault = forbidden(f"{ack.kind.name} for identifier {packet_id}, which awaits another answer")
                break
            if entry is None:
                if do is Do.DENY:
                    step.unknown.append(packet_id)
                continue
            token = entry[1]
            if after is None:
                del self._sent[packet_id]
            else:
                self._sent[packet_id] = (after, token)
            if do is Do.SETTLE:
                step.settled.append(token)
            elif do is Do.REFUSE:
                step.refused.append(token)
            elif do is Do.RELEASE:
                step.released.append((packet_id, None if entry[0] is Sent.RELEASED else token))
            else:
                step.finished.append(packet_id)
        return step

    def release(self, packet_ids: Iterable[int]) -> None:
        """These are not sent again, but the receiver may have them, of QoS 2: PUBREL is left, lest it take a later
        message of the same identifier for a repetition."""
        for packet_id in packet_ids:
            self._sent[packet_id] = (Sent.RELEASED, self._sent[packet_id][1])
            self._later.discard(packet_id)

    def forget(self, packet_ids: Iterable[int]) -> None:
        """These are free: what they stand for is not sent again."""
        for packet_id in packet_ids:
            self._sent.pop(packet_id, None)
            self._later.discard(packet_id)

    def unanswered(self) -> list[tuple[int, Sent, T]]:
        """What is to be sent again on a new connection, and only then, in this order: with DUP, or its PUBREL where it
        is released. [MQTT-4.4.0-1, 4.6.0-1, 3.3.1-1]"""
        return [(packet_id, state, token) for packet_id, (state, token) in self._sent.items()]


def _answer(ack: Ack) -> Answer:
    refused = ack.reason >= Reason.UNSPECIFIED_ERROR
    if ack.kind is Kind.PUBACK:
        return Answer.PUBACK_REFUSED if refused else Answer.PUBACK
    if ack.kind is Kind.PUBREC:
        return Answer.PUBREC_REFUSED if refused else Answer.PUBREC
    if ack.kind is Kind.PUBCOMP:
        return Answer.PUBCOMP
    raise ValueError(f"{ack.kind.name} is for what was received")
