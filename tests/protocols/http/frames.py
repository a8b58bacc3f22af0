"""Frames as clients write them (RFC 6455 §5.2), right and wrong."""

from broker.protocols.http.frames import BINARY

MASK = b"\x11\x22\x33\x44"


def masked(
    payload: bytes, opcode: int = BINARY, *, fin: bool = True, mask: bytes = MASK, reserved: int = 0, size: int = -1
) -> bytes:
    """One frame. `size`: what its head says, if that is not true."""
    told = len(payload) if size < 0 else size
    head = bytes([(0x80 if fin else 0) | reserved | opcode])
    if told < 126:
        head += bytes([0x80 | told])
    elif told < 1 << 16:
        head += b"\xfe" + told.to_bytes(2, "big")
    else:
        head += b"\xff" + told.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
