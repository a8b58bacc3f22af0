"""What clients' frames carry comes out as it went in, wherever they are cut; what may not be there ends it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.http.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Masked, Unframed, frame
from tests.protocols.http.frames import masked

CONTROLS = st.sampled_from((PING, PONG))
masks = st.binary(min_size=4, max_size=4)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, bytes, list[tuple[int, bytes]]]:
    """Frames, what their messages carry, and the control frames among them."""
    sent, payload, controls = bytearray(), bytearray(), []
    for message in draw(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=6)):
        for at, part in enumerate(message):
            opcode, fin = CONTINUATION if at else BINARY, at == len(message) - 1
            sent += masked(part, opcode, fin=fin, mask=draw(masks))
            payload += part
            if draw(st.booleans()):
                control = draw(CONTROLS), draw(st.binary(max_size=125))
                sent += masked(control[1], control[0], mask=draw(masks))
                controls.append(control)
    return bytes(sent), bytes(payload), controls


@given(conversations(), st.lists(st.integers(1, 50) | st.integers(1, 5_000), min_size=1))
def test_however_it_is_cut(conversation: tuple[bytes, bytes, list[tuple[int, bytes]]], cuts: list[int]) -> None:
    sent, payload, controls = conversation
    unframed, came = Unframed(), bytearray()
    at = turn = 0
    while at < len(sent):
        came += unframed.feed(sent[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    assert (bytes(came), unframed.controls, unframed.ended) == (payload, controls, False)


class Reader:
    """Takes what a reader of frames is fed."""

    def __init__(self) -> None:
        self.fed = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.fed += data
        return False, b""


@given(conversations(), st.integers(0, 70_000), st.lists(st.integers(1, 50) | st.integers(1, 5_000), min_size=1))
def test_masked_frames_are_passed_on_however_they_are_cut(
    conversation: tuple[bytes, bytes, list[tuple[int, bytes]]], size: int, cuts: list[int]
) -> None:
    good = conversation[0] + masked(bytes(size))
    sent = good + frame(b"not masked", PING)
    reader = Reader()
    gate, at, turn = Masked(reader), 0, 0  # type: ignore[arg-type]
    while at < len(sent) and len(reader.fed) <= len(good):
        gate.feed_data(sent[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    assert reader.fed[: len(good)] == good
    assert reader.fed[len(good)] & 0x70  # reserved bits: nobody agreed on any
    assert len(reader.fed) == len(good) + 2


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 200_000])
def test_every_size_is_written_and_read(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    assert Unframed().feed(masked(payload[:size])) == payload[:size]
    head = frame(payload[:size], BINARY)[: 10 if size > 65_535 else 4 if size > 125 else 2]
    assert head[0] == 0x82
    assert (head[1] if size < 126 else int.from_bytes(head[2:], "big")) == size


def test_what_a_frame_will_hold_is_not_waited_for() -> None:
    unframed = Unframed()
    giant = masked(b"begun", size=1 << 62)
    assert unframed.feed(giant) == b"begun"
    assert unframed.feed(b"\0" * 3) != b""
    assert not unframed.ended


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(b"x", TEXT), 1003),
        (masked(b"x", fin=False) + masked(b"x", TEXT), 1003),
        (frame(b"x", BINARY), 1002),
        (masked(b"x", reserved=0x40), 1002),
        (masked(b"x", CONTINUATION), 1002),
        (masked(b"x", fin=False) + masked(b"x", BINARY), 1002),
        (masked(b"x", PING, fin=False), 1002),
        (masked(b"x" * 126, PING), 1002),
        (masked(b"x", 0x3), 1002),
        (masked(b"x", 0xB), 1002),
    ],
)
def test_what_may_not_be_there(data: bytes, code: int) -> None:
    unframed = Unframed()
    assert unframed.feed(masked(b"before") + data + masked(b"behind")) in (b"before", b"beforex")
    assert unframed.fault is not None
    assert unframed.fault[0] == code
    assert unframed.feed(masked(b"behind") + masked(b"", CLOSE)) == b""
    assert unframed.ended


def test_behind_a_close_nothing_is_read() -> None:
    unframed = Unframed()
    assert unframed.feed(masked(b"before") + masked(b"\x03\xe8", CLOSE) + masked(b"behind")) == b"before"
    assert unframed.controls == [(CLOSE, b"\x03\xe8")]
    assert unframed.ended
    assert unframed.fault is None
