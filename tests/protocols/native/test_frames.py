"""What a frame takes in memory while it arrives."""

import tracemalloc

import pytest

from broker.protocols.native import wire
from broker.protocols.native.wire import FrameReader, encode

MIB = 1 << 20


@pytest.mark.parametrize("size", [3, 1_000, 65_536])
def test_a_frame_takes_no_more_than_its_size_whatever_the_pieces_are(size: int) -> None:
    frame = encode((wire.PING, bytes(MIB)))
    pieces = [frame[at : at + size] for at in range(0, len(frame), size)]
    reader = FrameReader(8 * MIB)
    pieces.reverse()
    tracemalloc.start()
    try:
        while len(pieces) > 1:
            assert reader.feed(bytes(bytearray(pieces.pop()))) == []  # a copy, as the socket gives
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.3 * reader.have
    assert reader.feed(pieces.pop()) == [(wire.PING, bytes(MIB))]
