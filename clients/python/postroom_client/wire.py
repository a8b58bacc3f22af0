"""Bytes to frames and back (PROTOCOL.md, *Frames*). Pure: no sockets, no clock, no loop.

A frame is a 4-byte big-endian length and one msgpack array `[type, …]`. What a frame means is decided by those who
handle it; here only its form is checked, and its length before anything of it is kept.
"""

from collections.abc import Sequence
from typing import Any

import msgpack

VERSION = 1
HELLO_LIMIT = 64 * 1024

HELLO, PUBLISH, ATTACH, CREDIT, SETTLE, EXTEND, STARTED, DETACH, REQUEST, UNIT, PING, GOODBYE = range(1, 13)
WELCOME, CONFIRM, REFUSE, DELIVER, ATTACHED, DETACHED, REPLY, ERROR, PONG, CLOSING, SLOWED = range(32, 43)

ATOMIC = 1
"""Flag of PUBLISH: all or nothing."""

MAX_DEPTH = 16

Frame = tuple[Any, ...]

_FLAT = frozenset((DELIVER, CONFIRM))
"""Frequent frames whose elements are used by their place; how deep one nests that nobody reads is all the same."""


class WireError(Exception):
    """The bytes are not frames of this protocol; `code` is the one of the broker's table."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def pack(frame: Sequence[Any]) -> bytes:
    """One frame as bytes. Raises what msgpack raises for values that have no form on the wire."""
    packed: bytes = msgpack.packb(frame)
    return len(packed).to_bytes(4, "big") + packed


def padded(frame: Frame, size: int) -> Frame:
    """The first `size` elements; those left out are nil, those unknown are ignored."""
    return frame[:size] if len(frame) >= size else frame + (None,) * (size - len(frame))


class FrameReader:
    """Collects bytes and gives whole frames. `limit` bounds a frame's length in bytes; raise it after WELCOME."""

    def __init__(self, limit: int = HELLO_LIMIT) -> None:
        self.limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes, return the frames that are now whole. Raises WireError; the connection is then of no more use."""
        if self._rest:
            self._rest += data
            with memoryview(self._rest) as view:
                frames, used = self._frames(view)
            del self._rest[:used]
            return frames
        with memoryview(data) as view:
            frames, used = self._frames(view)
            self._rest += view[used:]
        return frames

    def _frames(self, view: memoryview) -> tuple[list[Frame], int]:
        frames: list[Frame] = []
        start, end = 0, len(view)
        while end - start >= 4:
            length = int.from_bytes(view[start : start + 4], "big")
            if length > self.limit:
                if bytes(view[start : start + 4]) == b"HTTP":
                    raise WireError("bad_frame", "this is an HTTP port; the daemon prints its native address at start")
                raise WireError("frame_too_large", f"a frame of {length} bytes, the limit is {self.limit}")
            if end - start - 4 < length:
                break
            frames.append(_unpack(view[start + 4 : start + 4 + length]))
            start += 4 + length
        return frames, start


def _no_extension(code: int, _: bytes) -> None:
    raise ValueError(f"extension type {code}")


def _unpack(view: memoryview) -> Frame:
    try:
        frame = msgpack.unpackb(view, use_list=False, strict_map_key=False, ext_hook=_no_extension)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError("bad_frame", str(error) or type(error).__name__) from None
    if type(frame) is not tuple or not frame or type(frame[0]) is not int:
        raise WireError("bad_frame", "a frame is an array that begins with its type")
    if frame[0] not in _FLAT:
        _check(frame, MAX_DEPTH)
    return frame


def _check(value: Any, left: int) -> None:
    """Raises WireError for what nests too deep, or has a map key that is neither text nor a number."""
    if type(value) is dict:
        if not all(type(key) in (str, int) for key in value):
            raise WireError("bad_frame", "a map key is neither text nor a number")
        value = value.values()
    elif type(value) is not tuple:
        return
    if not left:
        raise WireError("bad_frame", f"nested deeper than {MAX_DEPTH}")
    for item in value:
        _check(item, left - 1)
