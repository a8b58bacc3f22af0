"""A WebSocket that carries the bytes of another door: its connections are the same there as on a socket of its own.

The HTTP connection looks at who asks from which page, as at every request, and answers the handshake; then it is gone,
and the socket belongs to a `Tunnel`, for which it is the socket, while the other door's connection takes it for its
transport. Neither way is there a task or future, nor does the end of a frame mean anything. Floor 4.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from aiohttp import hdrs, web

from broker.core.errors import BrokerError, Code
from broker.net.deadline import Deadlines
from broker.net.door import LINGER, DoorConnection
from broker.protocols.http.access import connection_of
from broker.protocols.http.frames import BINARY, CLOSE, NO_HANDSHAKE, PING, PONG, Unframed, frame
from broker.protocols.http.operation import Answer, Operation, Tag, header
from broker.protocols.http.router import Route

NORMAL = 1000
"""The close code of an end that both sides know the reason of, or that the other door's protocol told."""
_CODE = 2


class Tunnel(asyncio.Transport, asyncio.Protocol):
    """See the module. `closing`: the deadlines of clients that do not answer a close."""

    __slots__ = ("_carried", "_closing", "_code", "_frames", "_full", "_parted", "_socket")

    def __init__(self, carried: DoorConnection, closing: "Deadlines[Tunnel]") -> None:
        self._carried = carried
        self._closing = closing
        self._frames = Unframed()
        self._code = NORMAL
        self._full = False
        self._parted = False  # our close was sent
        self._socket: asyncio.Transport

    # The protocol of the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours now."""
        self._socket = cast(asyncio.Transport, transport)
        self._carried.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Hand on what the frames carry."""
        frames = self._frames
        if frames.ended:
            return
        payload = frames.feed(data)
        if payload:
            self._carried.data_received(payload)
        if frames.controls or frames.fault is not None:
            self._answer()

    def _answer(self) -> None:
        frames = self._frames
        controls, frames.controls = frames.controls, []
        for opcode, payload in controls:
            if opcode == PING and not self._full and not self._parted:
                self._socket.write(frame(payload, PONG))
            elif opcode == CLOSE:
                self._part(payload[:_CODE] if len(payload) >= _CODE else b"")
                self._socket.close()
        if frames.fault is not None and not self._parted:
            self._code, text = frames.fault
            self._carried.dismiss(BrokerError(Code.BAD_FRAME, text))
            self.close()

    def eof_received(self) -> bool:
        """The client is gone without a close."""
        return False

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._full = True
        self._carried.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._full = False
        self._carried.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._closing.end(self)
        self._carried.connection_lost(exc)

    # The transport of the other door's connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket says."""
        return self._socket.get_extra_info(name, default)

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """One message, unless there is nothing to say."""
        if data and not self._parted:
            self._socket.write(frame(bytes(data), BINARY))

    def get_write_buffer_size(self) -> int:
        """See asyncio.Transport."""
        return self._socket.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.Transport."""
        self._socket.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        """See asyncio.Transport."""
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.Transport."""
        self._socket.resume_reading()

    def can_write_eof(self) -> bool:
        """By TLS too."""
        return True

    def write_eof(self) -> None:
        """Nothing more comes; the client answers this close with its own, and then the socket is closed."""
        self._part(self._code.to_bytes(_CODE, "big"))

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return self._parted or self._socket.is_closing()

    def close(self) -> None:
        """The same for one who does not wait for the answer."""
        self.write_eof()
        if not self._socket.is_closing():
            self._closing.begin(self)

    def abort(self) -> None:
        """Close at once."""
        self._socket.abort()

    def _part(self, payload: bytes) -> None:
        """Send a close; what waits for nothing but the client's is read."""
        if self._parted or self._socket.is_closing():
            return
        self._parted = True
        self._socket.write(frame(payload, CLOSE))
        self._socket.resume_reading()


class TunnelRoutes:
    """A path at which the door `name` is reached by WebSocket, under these subprotocols. `connect` makes its
    connections and raises BrokerError when it takes none. Everybody may ask: who it is, is told inside."""

    def __init__(
        self, path: str, name: str, subprotocols: Sequence[str], connect: Callable[[], DoorConnection]
    ) -> None:
        self._path = path
        self._name = name
        self._subprotocols = tuple(subprotocols)
        self._connect = connect
        self._closing: Deadlines[Tunnel] | None = None

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [Route("GET", self._path, self.open, self._path.strip("/"), self._operation(), open=True, endless=True)]

    def _operation(self) -> Operation:
        wanted = header("Sec-WebSocket-Protocol", "Which protocol goes inside.", {"enum": list(self._subprotocols)})
        about = (
            f"Upgrades to a WebSocket (RFC 6455) whose binary messages carry {self._name} as a TCP connection would;"
            " packets may span or share them. Who the client is, it says inside: `Authorization` is not looked at."
        )
        summary = f"{self._name} over a WebSocket"
        return Operation(Tag.CONNECTIONS, summary, {101: Answer(f"{self._name} from here on.")}, about, (wanted,))

    async def open(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers 101. Raises BAD_REQUEST for what is no handshake, or for another subprotocol."""
        response = web.StreamResponse(status=101, headers=self._accepted(request))
        carried = self._connect()
        if self._closing is None:
            self._closing = Deadlines(asyncio.get_running_loop(), LINGER, Tunnel.abort)
        await response.prepare(request)
        await response.write_eof()
        connection_of(request).hand_over(Tunnel(carried, self._closing))
        return response

    def _accepted(self, request: web.BaseRequest) -> Iterable[tuple[str, str]]:
        """The head of the answer."""
        wanted = " or ".join(self._subprotocols)
        if hdrs.UPGRADE not in request.headers:
            raise BrokerError(Code.BAD_REQUEST, f"open this path as a WebSocket, with the subprotocol {wanted}")
        named = request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")
        if not {name.strip() for name in named} & set(self._subprotocols):
            raise BrokerError(
                Code.BAD_REQUEST, f"this WebSocket speaks {wanted}: send Sec-WebSocket-Protocol: {wanted}"
            )
        try:
            return web.WebSocketResponse(protocols=self._subprotocols, compress=False)._handshake(request)[0].items()
        except web.HTTPBadRequest:
            raise BrokerError(Code.BAD_REQUEST, NO_HANDSHAKE) from None
