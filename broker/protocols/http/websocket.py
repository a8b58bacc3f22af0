"""The socket under a dialogue: WebSocket (RFC 6455) on `/v1/stream`, by aiohttp.

Texts are framed here and written from the engine's own call, those of a commit once for all sockets that send the same.
Nothing is compressed: no extension is negotiated, so that a small frame is never a large text. Floor 4.
"""

import asyncio
from collections.abc import Sequence
from itertools import count

from aiohttp import WSMsgType, web

from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.hub import Hub
from broker.protocols.http.access import connection_of, principal_of
from broker.protocols.http.dialogue import Dialogue, messages_text
from broker.protocols.http.draft import ROOM
from broker.protocols.http.frames import NO_HANDSHAKE, PING, frame
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.texts import Texts

CLOSE_SECONDS = 2.0
"""For how long the client's answer to our close is awaited."""
SILENT_BEATS = 3
"""Heartbeats after which a client that said nothing at all, not even pong, is gone."""
MOST_SUBSCRIPTIONS_REMEMBERED = 64
MOST_IN_A_ROW = 100
"""Texts and pings of a socket after which others have their turn."""
_HEARTBEAT = b'{"type":"heartbeat"}'
_CLOSE_CODES = {
    Code.SHUTTING_DOWN: 1001,
    Code.UNSUPPORTED: 1003,
    Code.BAD_FRAME: 1007,
    Code.RATE_LIMITED: 1013,
    Code.OVERLOADED: 1013,
    Code.STORAGE_FAILED: 1011,
    Code.INTERNAL: 1011,
}
_POLICY = 1008
"""Close codes (RFC 6455 §7.4.1 and its registry): for whatever else the connection is ended."""


_BEAT = frame(_HEARTBEAT) + frame(b"", PING)


class Frames:
    """The messages of a commit as a frame, by number of the subscription; the latest are remembered."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._rows: Sequence[Row] = ()
        self._frames: dict[int, bytes] = {}

    def of(self, number: int, rows: Sequence[Row], epoch: str) -> bytes:
        """Their text message, framed."""
        if rows is not self._rows or len(self._frames) > MOST_SUBSCRIPTIONS_REMEMBERED:
            self._rows = rows
            self._frames = {}
        found = self._frames.get(number)
        if found is None:
            text = self._texts.of
            found = self._frames[number] = frame(messages_text(number, [text(row, epoch) for row in rows]))
        return found


class Socket:
    """One WebSocket; the Shell of its dialogue."""

    def __init__(self, request: web.BaseRequest, hub: Hub, options: HttpOptions, frames: Frames) -> None:
        self._connection = connection_of(request)
        self._frames = frames
        self._epoch = hub.engine.epoch
        most = hub.limits.max_body * 4 // 3 + ROOM
        # aiohttp refuses from max_msg_size on.
        self._response = web.WebSocketResponse(
            timeout=CLOSE_SECONDS, autoping=False, compress=False, max_msg_size=most + 1
        )
        self.dialogue = Dialogue(hub, principal_of(request), self, options, most)
        self._going_on = asyncio.Event()
        self._closing: asyncio.Task[bool] | None = None
        self._silent = 0

    async def open(self, request: web.BaseRequest) -> None:
        """The handshake. Raises BAD_REQUEST for what is none."""
        try:
            await self._response.prepare(request)
        except web.HTTPBadRequest:
            raise BrokerError(Code.BAD_REQUEST, NO_HANDSHAKE) from None

    async def converse(self) -> web.StreamResponse:
        """From the greeting to the end."""
        connection, dialogue = self._connection, self.dialogue
        connection.switched()
        connection.on_resume, connection.on_stall, connection.on_dismiss = self._resume, dialogue.stalled, dialogue.fail
        try:
            dialogue.greet()
            await self._listen()
        finally:
            connection.on_resume = connection.on_stall = connection.on_dismiss = None
            dialogue.lost()
        if self._closing is not None:
            await self._closing
        return self._response

    async def _listen(self) -> None:
        for number in count(1):
            if number % MOST_IN_A_ROW == 0:
                await asyncio.sleep(0)  # while there are any, `receive` does not wait
            message = await self._response.receive()
            self._silent = 0
            self._connection.switched()
            if message.type is WSMsgType.TEXT:
                self.dialogue.receive(message.data)
            elif message.type is WSMsgType.PING:
                await self._response.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                self.dialogue.fail(BrokerError(Code.UNSUPPORTED, "send text; bytes go into body_base64"))
            elif message.type is not WSMsgType.PONG:
                return
            while (self.dialogue.busy or self.full) and self._closing is None:
                self._going_on.clear()
                await self._going_on.wait()

    def beat(self) -> None:
        """Show both sides that the other lives; browsers do not let a page see pings, hence the text."""
        if self.full or self.dialogue.busy:
            return  # then the client is not listened to
        self._silent += 1
        if self._silent > SILENT_BEATS:
            self._connection.abort()
        else:
            self._write(_BEAT)

    # Shell

    @property
    def full(self) -> bool:
        """See Shell."""
        return self._connection.writing_paused

    def send(self, text: bytes) -> None:
        """See Shell."""
        self._write(frame(text))

    def send_rows(self, number: int, rows: Sequence[Row]) -> None:
        """See Shell."""
        self._write(self._frames.of(number, rows, self._epoch))

    def close(self, error: BrokerError) -> None:
        """See Shell."""
        if self._closing is None:
            code = _CLOSE_CODES.get(error.code, _POLICY)
            closing = self._response.close(code=code, message=error.code.value.encode())
            self._closing = asyncio.create_task(closing)
            self._going_on.set()

    def ready(self) -> None:
        """See Shell."""
        self._going_on.set()

    def _resume(self) -> None:
        self._going_on.set()
        self.dialogue.go_on()

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)


class Sockets:
    """All WebSockets of the door."""

    def __init__(self, hub: Hub, options: HttpOptions, texts: Texts) -> None:
        self._hub = hub
        self._options = options
        self._frames = Frames(texts)
        self._sockets: set[Socket] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._sockets)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Converse until one side closes."""
        socket = Socket(request, self._hub, self._options, self._frames)
        await socket.open(request)
        self._sockets.add(socket)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._options.heartbeat / 1000, self._beat)
        try:
            return await socket.converse()
        finally:
            self._sockets.discard(socket)

    def close(self) -> None:
        """The door closes: everybody is told."""
        if self._timer is not None:
            self._timer.cancel()
        for socket in list(self._sockets):
            socket.dialogue.fail(BrokerError(Code.SHUTTING_DOWN))

    def _beat(self) -> None:
        self._timer = None
        for socket in list(self._sockets):
            socket.beat()
        if self._sockets:
            self._timer = asyncio.get_running_loop().call_later(self._options.heartbeat / 1000, self._beat)
