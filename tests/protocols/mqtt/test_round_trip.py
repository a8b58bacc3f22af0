"""What is encoded is decoded to the same, in every version, however the bytes are split."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import V311, Ack, Packet
from tests.protocols.mqtt.strategies import VERSIONS, connects, from_clients, from_servers


def one_by_one(packets: list[Packet]) -> list[Packet]:
    """Acknowledgements that were read in a row, each for itself."""
    singles: list[Packet] = []
    for packet in packets:
        singles += [packet._replace(packet_ids=(n,)) for n in packet.packet_ids] if type(packet) is Ack else [packet]
    return singles


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


def assert_round_trip(version: int, from_client: bool, packets: list[Packet], cuts: list[int]) -> None:
    decoder = Decoder(version=version, from_client=from_client)
    data = b"".join(encode(packet, version) for packet in packets)
    found = one_by_one([packet for piece in split(data, cuts) for packet in decoder.feed(piece)])
    assert found == packets
    assert [type(packet) for packet in found] == [type(packet) for packet in packets]


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_packets_of_clients(version: int, data: st.DataObject) -> None:
    packets = data.draw(st.lists(from_clients(version), max_size=6))
    assert_round_trip(version, True, packets, data.draw(st.lists(st.integers(0, 4000), max_size=8)))


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_packets_of_servers(version: int, data: st.DataObject) -> None:
    packets = data.draw(st.lists(from_servers(version), max_size=6))
    assert_round_trip(version, False, packets, data.draw(st.lists(st.integers(0, 4000), max_size=8)))


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_a_connection_from_its_first_byte(version: int, data: st.DataObject) -> None:
    connect = data.draw(connects(version))
    packets = (
        data.draw(st.lists(from_clients(version), max_size=4))
        if "authentication_method" not in connect.properties
        else []
    )
    written = b"".join(encode(packet, version) for packet in (connect, *packets))
    decoder = Decoder()
    found: list[Packet] = []
    for piece in split(written, data.draw(st.lists(st.integers(0, 4000), max_size=8))):
        found += decoder.feed(piece)
    assert found == [connect]
    assert decoder.version == version
    assert one_by_one(decoder.admit()) == packets


@given(st.lists(st.integers(1, 65_535), min_size=1, max_size=50), st.integers(0, 200))
def test_a_row_of_acknowledgements_is_one(ids: list[int], cut: int) -> None:
    data = encode(Ack(Kind.PUBACK, tuple(ids)), V311)
    decoder = Decoder(version=V311)
    assert decoder.feed(data) == [Ack(Kind.PUBACK, tuple(ids))]
    pieces = [packet for piece in split(data, [cut]) for packet in decoder.feed(piece)]
    assert [n for packet in pieces if type(packet) is Ack for n in packet.packet_ids] == ids
