"""Two ends over connections that break at any moment, and a receiver that crashes: QoS 2 arrives once, QoS 1 at least
once."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import V5, Ack, Packet, Publish
from broker.protocols.mqtt.flow.inbound import Do, Inbound
from broker.protocols.mqtt.flow.outbound import Outbound, Sent
from broker.protocols.mqtt.flow.quota import Quota

MAXIMUM = 3


class Ends:
    """A sender and a receiver as a server would drive them; what is written waits as packets until it is read."""

    def __init__(self) -> None:
        self.outbound: Outbound[tuple[int, int]] = Outbound(MAXIMUM)
        self.inbound = Inbound()
        self.arrived: list[int] = []
        self.disk: list[int] = []
        self.sent = 0
        self.commits: deque[tuple[Publish, Quota]] = deque()
        self.reconnect()

    def reconnect(self) -> None:
        """A new connection: what was on its way is lost, what is unanswered is sent again, commits go on."""
        self.there: deque[Packet] = deque()
        self.back: deque[Packet] = deque()
        self.quota = Quota(MAXIMUM)
        for packet_id, state, (number, qos) in self.outbound.unanswered():
            if state is Sent.RELEASED:
                self.there.append(Ack(Kind.PUBREL, (packet_id,)))
            else:
                self.there.append(Publish("t", str(number).encode(), qos, dup=True, packet_id=packet_id))

    def crash(self) -> None:
        """The receiver keeps what is on disk, and no more."""
        self.inbound = Inbound(self.disk)
        self.commits.clear()
        self.reconnect()

    def send(self, qos: int) -> None:
        if self.outbound.room:
            packet_id = self.outbound.send(qos, (self.sent, qos))
            self.there.append(Publish("t", str(self.sent).encode(), qos, packet_id=packet_id))
            self.sent += 1

    def receive(self) -> None:
        if self.there:
            (packet,) = Decoder(version=V5).feed(encode(self.there.popleft(), V5))
            if isinstance(packet, Publish):
                self.publish(packet)
            elif isinstance(packet, Ack):
                do = self.inbound.release(packet.packet_ids[0])
                self.disk = self.inbound.owned
                assert do in (Do.PUBCOMP, Do.PUBCOMP_UNKNOWN)
                self.quota.give_2(packet.packet_ids[0])
                self.back.append(Ack(Kind.PUBCOMP, packet.packet_ids))

    def publish(self, packet: Publish) -> None:
        self.quota.take(packet.qos, packet.packet_id)
        if packet.qos == 1:
            self.commits.append((packet, self.quota))
            return
        match self.inbound.publish(packet.packet_id):
            case Do.STORE:
                self.commits.append((packet, self.quota))
            case Do.PUBREC:
                self.back.append(Ack(Kind.PUBREC, (packet.packet_id,)))

    def commit(self) -> None:
        if self.commits:
            packet, quota = self.commits.popleft()
            self.arrived.append(int(packet.payload))
            if packet.qos == 1:
                quota.give_1()
                if quota is self.quota:
                    self.back.append(Ack(Kind.PUBACK, (packet.packet_id,)))
            else:
                assert self.inbound.committed(packet.packet_id) is Do.PUBREC
                self.disk = self.inbound.owned
                self.back.append(Ack(Kind.PUBREC, (packet.packet_id,)))

    def answer(self) -> None:
        if self.back:
            packet = self.back.popleft()
            assert isinstance(packet, Ack)
            step = self.outbound.on(packet)
            assert step.fault is None
            assert not step.unknown
            self.there.extend(Ack(Kind.PUBREL, (packet_id,)) for packet_id, _ in step.released)

    def finish(self) -> None:
        self.reconnect()
        while self.there or self.commits or self.back:
            self.receive()
            self.commit()
            self.answer()


ACTIONS = st.sampled_from(
    ["send 1", "send 2", "receive", "receive", "commit", "commit", "answer", "answer", "crash", "reconnect"]
)


@settings(max_examples=3 * settings().max_examples)
@given(st.lists(ACTIONS, max_size=120))
def test_nothing_is_lost_and_qos_2_is_not_doubled(actions: list[str]) -> None:
    ends = Ends()
    of_qos_2: set[int] = set()
    for action in actions:
        name, _, qos = action.partition(" ")
        if qos == "2" and ends.outbound.room:
            of_qos_2.add(ends.sent)
        getattr(ends, name)(*([int(qos)] if qos else []))
    ends.finish()
    assert ends.outbound.unanswered() == []
    assert ends.inbound.owned == []
    assert set(ends.arrived) == set(range(ends.sent))
    assert all(ends.arrived.count(number) == 1 for number in of_qos_2)
