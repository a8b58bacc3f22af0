"""Bytes to frames and back, without sockets: PROTOCOL.md § Frames. Part of the pure floors."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgpack

from broker.core.errors import BrokerError, Code

HELLO, PUBLISH, ATTACH, CREDIT, SETTLE, EXTEND, STARTED, DETACH, REQUEST, UNIT, PING, GOODBYE = range(1, 13)
WELCOME, CONFIRM, REFUSE, DELIVER, ATTACHED, DETACHED, REPLY, ERROR, PONG, CLOSING, SLOWED = range(32, 43)
VERSION = 1
MAX_DEPTH = 16
_SMALL = 4_096
"""Bytes of a piece of a frame below which the space that a piece of its own takes counts."""
_TLS_RECORD = 0x16
"""The first byte of who speaks TLS (RFC 8446 §5.1); as that of a length it is beyond every limit."""
_PLAIN = frozenset((PUBLISH, CREDIT, SETTLE, EXTEND, STARTED, DETACH, DELIVER, CONFIRM))

Frame = tuple[Any, ...]


def _no_extension(code: int, _: bytes) -> None:
    raise ValueError(f"extension type {code}")


_unpack = partial(msgpack.unpackb, use_list=False, ext_hook=_no_extension)
_pack = msgpack.Packer(autoreset=True).pack


def encode(frame: Sequence[Any]) -> bytes:
    """A frame with its length in front."""
    packed: bytes = _pack(frame)
    return len(packed).to_bytes(4, "big") + packed


class FrameReader:
    """Cuts a stream of bytes into frames. `max_frame` may be raised after the greeting. `have`: bytes of a frame that
    is not whole yet."""

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self._parts: list[bytes | bytearray] = []
        self.have = 0
        self._need = 4

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises BAD_FRAME, FRAME_TOO_LARGE; then the stream is lost."""
        if self._parts:
            self._keep(data)
            self.have += len(data)
            if self.have < self._need:
                self._check(self._parts[0])
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        return self._cut(data)

    def _keep(self, data: bytes) -> None:
        """Large pieces as they are, for they are copied once when all is there; small ones in one, which would take
        many times their size otherwise."""
        if len(data) >= _SMALL:
            self._parts.append(data)
        elif type(last := self._parts[-1]) is bytearray:
            last += data
        else:
            self._parts.append(bytearray(data))

    def _check(self, head: bytes | bytearray) -> None:
        if len(head) >= 4:
            self._size(head, 0)

    def _size(self, data: bytes | bytearray, at: int) -> int:
        size = int.from_bytes(data[at : at + 4], "big")
        if size > self.max_frame:
            tls = "; these look like bytes of TLS: write postroom:// here" if data[at] == _TLS_RECORD else ""
            raise BrokerError(Code.FRAME_TOO_LARGE, f"{size} bytes, the limit is {self.max_frame}{tls}")
        return size

    def _cut(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        view = memoryview(data)
        at, end = 0, len(data)
        need = 4
        while end - at >= 4:
            stop = at + 4 + self._size(data, at)
            if stop > end:
                need = stop - at
                break
            frames.append(_decode(view[at + 4 : stop]))
            at = stop
        if at < end:
            self._parts.append(data[at:] if at else data)
        self.have = end - at
        self._need = need
        return frames


def _decode(packed: memoryview) -> Frame:
    try:
        frame = _unpack(packed)
        if type(frame) is tuple and frame and type(frame[0]) is int:
            if frame[0] not in _PLAIN:
                _check_depth(frame, MAX_DEPTH)
            return frame
    except (ValueError, msgpack.UnpackException, msgpack.StackError, RecursionError) as error:
        raise BrokerError(Code.BAD_FRAME, str(error) or type(error).__name__) from None
    raise BrokerError(Code.BAD_FRAME, "not an array that begins with a type")


def _check_depth(value: Any, left: int) -> None:
    if type(value) is dict:
        value = value.values()
    elif type(value) is not tuple:
        return
    if not left:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    for item in value:
        _check_depth(item, left - 1)
