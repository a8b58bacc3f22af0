"""The vectors that the codec alone leaves open, since they are a session's: with `flow` beside it they end right."""

import pytest

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import Ack, Packet, Publish
from broker.protocols.mqtt.flow.aliases import AliasesIn
from broker.protocols.mqtt.flow.outbound import Outbound, Sent
from tests.protocols.mqtt.exceptions import ALIAS, SESSION, UNCLOSED
from tests.protocols.mqtt.vectors import Vector, load, needed

MAXIMUM = 10
"""The Topic Alias Maximum of the server that the vectors were written for."""


class Session:
    """As much of one as these vectors need."""

    def __init__(self, vector: Vector) -> None:
        self.from_client = Decoder(version=vector.version)
        self.from_server = Decoder(version=vector.version, from_client=False)
        self.outbound: Outbound[str] = Outbound()
        self.aliases = AliasesIn(MAXIMUM)

    def step(self, direction: str, data: bytes) -> None:
        """Raises MqttError where the connection ends."""
        decoder = self.from_client if direction == "send" else self.from_server
        for packet in decoder.feed(data):
            if direction == "send":
                self.received(packet)
            elif isinstance(packet, Publish) and packet.qos:
                state = Sent.QOS_1 if packet.qos == 1 else Sent.QOS_2
                self.outbound = Outbound(sent=[*self.outbound.unanswered(), (packet.packet_id, state, packet.topic)])

    def received(self, packet: Packet) -> None:
        if isinstance(packet, Publish):
            self.aliases.topic(packet)
        elif isinstance(packet, Ack) and packet.kind is not Kind.PUBREL:
            fault = self.outbound.on(packet).fault
            if fault is not None:
                raise fault


def ends(vector: Vector) -> bool:
    session = Session(vector)
    try:
        for direction, data in vector.steps:
            session.step(direction, data)
    except MqttError:
        return True
    return False


@needed
@pytest.mark.parametrize("file", ["FLOW", "PUBLISH", "PUBACK", "PUBREC", "PUBCOMP"])
def test_they_end_where_they_should(file: str) -> None:
    for vector in load():
        of_session = UNCLOSED.get((vector.file, vector.version, vector.name)) in (SESSION, ALIAS)
        if vector.file == file and (of_session or not vector.closes) and vector.connects:
            assert ends(vector) == vector.closes, str(vector)
