"""Frames of WebSockets (RFC 6455 §5), without the socket: ours, which are whole, and a client's, as a run of bytes or
for aiohttp's reader.

Nothing is compressed: no extension is negotiated, so that a small frame is never a large message. Floor 4.
"""

from struct import Struct

from aiohttp._websocket.helpers import websocket_mask
from aiohttp._websocket.reader import WebSocketReader

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
"""Opcodes (§5.2)."""
PROTOCOL_ERROR, UNSUPPORTED_DATA = 1002, 1003
"""Close codes (§7.4.1)."""
NO_HANDSHAKE = (
    "not a WebSocket handshake: send Connection: Upgrade, Upgrade: websocket, Sec-WebSocket-Version: 13 and, as"
    " Sec-WebSocket-Key, 16 random bytes in base64; a proxy on the way must pass them on"
)
"""What one is told who asks for a WebSocket in any other way (§4.2.1)."""
MAX_CONTROL = 125
"""Bytes that a ping or close carries at most (§5.5)."""
_FIN, _RESERVED, _OPCODE, _MASKED, _SIZE = 0x80, 0x70, 0x0F, 0x80, 0x7F
_SIZE_2, _SIZE_8, _MASK = 126, 127, 4
_SHORTEST = 2 + _MASK
_UNMASKED = bytes(_MASK)
_REFUSED = bytes([_FIN | _RESERVED, _MASKED])  # the head of a frame that every reader refuses as a protocol error
_medium, _large = Struct(">H").unpack_from, Struct(">Q").unpack_from


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A whole, unmasked frame (§5.2)."""
    size = len(payload)
    if size < _SIZE_2:
        return b"%c%c%b" % (_FIN | opcode, size, payload)
    if size < 1 << 16:
        return b"%c\x7e%b%b" % (_FIN | opcode, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (_FIN | opcode, size.to_bytes(8, "big"), payload)


class Masked:
    """Stands before aiohttp's reader, which takes unmasked frames, and has it refuse them, as a server must (§5.1).
    What came before such a frame is read."""

    __slots__ = ("_kept", "_left", "_reader")

    def __init__(self, reader: WebSocketReader) -> None:
        self._reader = reader
        self._kept = b""  # of a head that is not whole
        self._left = 0  # bytes of mask and payload that are under way

    def feed_eof(self) -> None:
        """The client is gone."""
        self._reader.feed_eof()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """See aiohttp's reader: whether that was the end, and what nobody reads."""
        if self._kept:
            data, self._kept = self._kept + data, b""
        at, end = self._left, len(data)
        while end - at >= 2:
            second = data[at + 1]
            if not second & _MASKED:
                return self._reader.feed_data(data[:at] + _REFUSED)
            size, start = second & _SIZE, at + _SHORTEST
            if size >= _SIZE_2:
                start += 2 if size == _SIZE_2 else 8
                if end < start - _MASK:
                    break
                (size,) = _medium(data, at + 2) if size == _SIZE_2 else _large(data, at + 2)
            at = start + size
        self._left = max(0, at - end)
        if at < end:
            data, self._kept = data[:at], data[at:]
        return self._reader.feed_data(data)


class Unframed:
    """What a client's binary messages carry, as it comes: where a frame or message ends does not matter, so that
    nothing is kept until it does, and its size is no bound.

    `controls`: opcode and payload of pings, pongs and the close that came; who asks takes them out. `fault`: close code
    and reason of what may not be there; behind it, nothing but the close matters. With that it has `ended`.
    """

    __slots__ = ("_begun", "_kept", "_left", "_mask", "controls", "ended", "fault")

    def __init__(self) -> None:
        self.controls: list[tuple[int, bytes]] = []
        self.fault: tuple[int, str] | None = None
        self.ended = False
        self._kept = b""  # of a head or control frame that is not whole
        self._left = 0  # bytes of the payload that is under way
        self._mask = b""  # of it, turned to where it goes on
        self._begun = False  # a message goes on in the next frame

    def feed(self, data: bytes) -> bytes:
        """The payload that came."""
        if self._kept:
            data, self._kept = self._kept + data, b""
        whole, at, end = bytearray(data), 0, len(data)
        out: list[bytearray] = []
        while at < end and not self.ended:
            if self._left:
                stop = min(end, at + self._left)
                if self.fault is None:
                    piece = whole[at:stop]
                    websocket_mask(self._mask, piece)
                    out.append(piece)
                self._left -= stop - at
                if self._left:
                    turn = (stop - at) % _MASK
                    self._mask = self._mask[turn:] + self._mask[:turn]
                at = stop
                continue
            if not self._begun and self.fault is None:
                at = _take_whole(data, whole, at, out)
            behind = self._head(data, at)
            if behind is None:
                self._kept = data[at:]
                break
            at = behind
        return b"".join(out)

    def _head(self, data: bytes, at: int) -> int | None:
        """Take a frame's head, and of a control frame all; where it ends, or None when it is not whole."""
        if len(data) - at < 2:
            return None
        first, second = data[at], data[at + 1]
        if self.fault is None:
            self.fault = _fault(first, second, begun=self._begun)
        size, opcode = second & _SIZE, first & _OPCODE
        behind = at + 2 + (2 if size == _SIZE_2 else 8 if size == _SIZE_8 else 0)
        start = behind + (_MASK if second & _MASKED else 0)
        if len(data) < start:
            return None
        mask = data[behind:start] or _UNMASKED
        if opcode & CLOSE and size <= MAX_CONTROL:
            if len(data) < start + size:
                return None
            payload = bytearray(data[start : start + size])
            websocket_mask(mask, payload)
            self.controls.append((opcode, bytes(payload)))
            self.ended = opcode == CLOSE
            return start + size
        if size >= _SIZE_2:
            (size,) = _medium(data, at + 2) if size == _SIZE_2 else _large(data, at + 2)
        self._left, self._mask, self._begun = size, mask, not first & _FIN
        return start


def _take_whole(data: bytes, whole: bytearray, at: int, out: list[bytearray]) -> int:
    """Most of what comes: small messages, each in a frame that is here. They cost less than half so; where they end."""
    end = len(data)
    while end - at >= _SHORTEST and data[at] == _FIN | BINARY:
        size, start = data[at + 1] ^ _MASKED, at + 2 + _MASK
        if size == _SIZE_2:
            size, start = data[at + 2] << 8 | data[at + 3], start + 2
        elif size > _SIZE_2:
            break
        stop = start + size
        if stop > end:
            break
        piece = whole[start:stop]
        websocket_mask(data[start - _MASK : start], piece)
        out.append(piece)
        at = stop
    return at


def _fault(first: int, second: int, *, begun: bool) -> tuple[int, str] | None:
    """Why such a frame may not come now; `begun`: within a message."""
    opcode = first & _OPCODE
    if first & _RESERVED or not second & _MASKED:
        return PROTOCOL_ERROR, "frames of clients are masked, and no extension was agreed on"
    if opcode & CLOSE:
        good = opcode <= PONG and first & _FIN and second & _SIZE <= MAX_CONTROL
        return None if good else (PROTOCOL_ERROR, "that is no control frame")
    if opcode == TEXT:
        return UNSUPPORTED_DATA, "send binary frames"
    if opcode != (CONTINUATION if begun else BINARY):
        return PROTOCOL_ERROR, "a message begins in a binary frame and goes on in continuation frames"
    return None
