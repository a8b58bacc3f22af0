"""The native protocol by hand: what is sent and heard on one connection, frame by frame, with nothing in between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgpack

HELLO, PUBLISH, ATTACH, CREDIT, SETTLE, EXTEND, STARTED, DETACH, REQUEST, UNIT, PING, GOODBYE = range(1, 13)
WELCOME, CONFIRM, REFUSE, DELIVER, ATTACHED, DETACHED, REPLY, ERROR, PONG, CLOSING, SLOWED = range(32, 43)
ACK, RETRY, REJECT, RELEASE = "ack", "retry", "reject", "release"
WITHIN = 20.0
"""Seconds after which a frame that should have come has not."""

Frame = tuple[Any, ...]


def encode(*frame: Any) -> bytes:
    """One frame with its length."""
    packed: bytes = msgpack.packb(frame)
    return len(packed).to_bytes(4, "big") + packed


class Link:
    """A connection; `send` does not wait, `hear` gives the next frame, None once the other side has closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._request = 0
        self.welcome: dict[str, Any] = {}

    async def greet(self, **hello: Any) -> None:
        """HELLO and WELCOME. Raises ConnectionError when there is no WELCOME."""
        self.send(HELLO, 1, {"client": "test", **hello})
        frame = await self.hear()
        if frame is None or frame[0] != WELCOME:
            raise ConnectionError(f"no welcome but {frame}")
        self.welcome = frame[2]

    def send(self, *frame: Any) -> None:
        self._writer.write(encode(*frame))

    def send_bytes(self, data: bytes) -> None:
        """Anything, frame or not."""
        self._writer.write(data)

    async def hear(self, within: float = WITHIN) -> Frame | None:
        try:
            async with asyncio.timeout(within):
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                packed = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        frame: Frame = msgpack.unpackb(packed, use_list=False, strict_map_key=False)
        return frame

    async def hear_kind(self, kind: int) -> Frame:
        """The next frame of a kind; others are passed over. Raises ConnectionError at the end of the connection."""
        while (frame := await self.hear()) is not None:
            if frame[0] == kind:
                return frame
        raise ConnectionError("the connection ended")

    async def ask(self, verb: str, **arguments: Any) -> Any:
        """A request on a connection that hears nothing else; its result. Raises RuntimeError for a refusal."""
        self._request += 1
        self.send(REQUEST, self._request, verb, arguments)
        while (frame := await self.hear()) is not None:
            if frame[0] in (REPLY, ERROR) and frame[1] in (self._request, None):
                if frame[0] == ERROR:
                    raise RuntimeError(f"{frame[2]}: {frame[3]}")
                return frame[2]
        raise ConnectionError("the connection ended")

    def drop(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Link]:
    """A connection without a greeting, broken at the end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
    try:
        yield Link(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def greeted(address: str, **hello: Any) -> AsyncIterator[Link]:
    """A connection that has greeted."""
    async with connected(address) as link:
        await link.greet(**hello)
        yield link
