"""Whatever comes, the decoder returns packets or raises its own error, keeps no more than it was sent, and reads the
same whether the bytes come at once or in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.dialect import Limits
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import Ack, Connect, Packet
from tests.protocols.mqtt.cases import BROKEN
from tests.protocols.mqtt.strategies import VERSIONS
from tests.protocols.mqtt.test_round_trip import one_by_one
from tests.protocols.mqtt.vectors import load

LIMITS = Limits(max_packet=4096, max_connect=512, max_early=512)
CORPUS = sorted(
    {data for vector in load() for _, data in vector.steps}
    | {case.sent for case in BROKEN if isinstance(case.sent, bytes)}
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A few packets of the corpus with bytes changed, dropped and repeated."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(CORPUS), min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at : at + draw(st.integers(1, 4))]
            case 2:
                data[at:at] = draw(st.binary(max_size=4))
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


def read(decoder: Decoder, pieces: list[bytes]) -> tuple[list[Packet], MqttError | None]:
    """Everything read, and the error that ended it."""
    packets: list[Packet] = []
    sent = 0
    try:
        for piece in pieces:
            sent += len(piece)
            packets += decoder.feed(piece)
            assert len(decoder._tail) <= sent
        if packets and isinstance(packets[0], Connect):
            packets += decoder.admit()
    except MqttError as fault:
        return [*packets, *fault.before], fault
    return packets, None


@pytest.mark.parametrize("version", [0, *VERSIONS])
@pytest.mark.parametrize("from_client", [True, False])
@given(st.one_of(mutated(), st.binary(max_size=60)), st.integers(1, 40))
def test_nothing_else_escapes(version: int, from_client: bool, data: bytes, step: int) -> None:
    if not version and not from_client:
        return
    packets, fault = read(Decoder(LIMITS, version=version, from_client=from_client), [data])
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    in_pieces, late = read(Decoder(LIMITS, version=version, from_client=from_client), pieces)
    assert one_by_one(in_pieces) == one_by_one(packets)
    assert (fault is None) == (late is None)
    if fault is not None and late is not None:
        assert (fault.reason, fault.rules) == (late.reason, late.rules)
    for packet in packets:
        spoken = packet.version if isinstance(packet, Connect) else version
        if spoken:
            assert written_back(packet, spoken, from_client) == [packet]


def written_back(packet: Packet, version: int, from_client: bool) -> list[Packet]:
    """What was read can be written, and reads the same."""
    new = 0 if isinstance(packet, Connect) else version
    found = Decoder(version=new, from_client=from_client).feed(encode(packet, version))
    return found if not isinstance(packet, Ack) or packet.reason == 0 else one_by_one(found)
