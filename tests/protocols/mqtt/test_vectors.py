"""The 1,826 vectors against the codec, leniently: where the server should hang up, the decoder refuses or reads a
DISCONNECT; how that is told is the server's. What the server should say is read, and written to the same bytes."""

import pytest

from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import Connect, Disconnect
from tests.protocols.mqtt.exceptions import UNCLOSED
from tests.protocols.mqtt.vectors import Vector, load, needed

VECTORS = load()
NUMBER = 1826


def closed_by(vector: Vector) -> int | None:
    """By which of the things that the client sends the connection ends, counted from its last, which is 0."""
    sent = [data for direction, data in vector.steps if direction == "send"]
    server = Decoder()
    if vector.connects:
        server.feed(encode(Connect(vector.version, "vector"), vector.version))
        server.admit()
    for index, data in enumerate(sent):
        try:
            packets = server.feed(data)
        except MqttError:
            return len(sent) - 1 - index
        if packets and isinstance(packets[-1], Disconnect):
            return len(sent) - 1 - index
        if packets and isinstance(packets[-1], Connect):
            server.admit()
    return None


@needed
def test_all_are_there() -> None:
    assert len(VECTORS) == NUMBER


@needed
@pytest.mark.parametrize("file", sorted({vector.file for vector in VECTORS}) or ["none"])
def test_the_connection_ends_where_it_should(file: str) -> None:
    of_file = [vector for vector in VECTORS if vector.file == file]
    wrong = {(v.file, v.version, v.name) for v in of_file if closed_by(v) != (0 if v.closes else None)}
    assert wrong == {key for key in UNCLOSED if key[0] == file}


@needed
def test_what_a_server_says_is_read_and_written_alike() -> None:
    said = 0
    for vector in VECTORS:
        client = Decoder(version=vector.version, from_client=False)
        for direction, data in vector.steps:
            if direction == "recv" and not _of_another_version(vector, data):
                packets = client.feed(data)
                assert b"".join(encode(packet, vector.version) for packet in packets) == data, str(vector)
                said += 1
    assert said > NUMBER / 2


def _of_another_version(vector: Vector, data: bytes) -> bool:
    """A CONNACK in the form of MQTT 5 to a client whose version is not spoken."""
    return vector.version != 5 and data == b"\x20\x03\x00\x84\x00"
