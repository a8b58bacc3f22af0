"""One connection to the broker: bytes in, frames handed on; bytes out, heartbeats, and how it ended.

It knows the greeting and the heartbeat and nothing else; what frames mean is the `Connection`'s.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

from postroom_client import tls, wire
from postroom_client.address import Address
from postroom_client.errors import ConnectionLost, PostroomError, refusal

Handle = Callable[["Link", wire.Frame], None]


class Link(asyncio.Protocol):
    """`welcomed` and `ended` are futures: of WELCOME's settings, and of None once the connection is gone. `error`: why,
    when the broker or the bytes said so."""

    def __init__(self, hello: dict[str, Any], handle: Handle, writable: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._hello = hello
        self._handle = handle
        self._writable = writable
        self._reader = wire.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._heartbeat = 0.0
        self._heard = self._said = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.paused = False
        self.closing = False  # one side is about to go: publish nothing more here
        self.parted = False  # GOODBYE has been said
        self.slowed = False  # the broker takes publishes more slowly than we send them
        self.error: PostroomError | None = None
        self.welcomed: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    @property
    def live(self) -> bool:
        """Greeted, and still there."""
        return self.welcomed.done() and not self.ended.done()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: greet."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._transport.set_write_buffer_limits(high=1 << 20)
        self.write(wire.pack((wire.HELLO, wire.VERSION, self._hello)))

    def data_received(self, data: bytes) -> None:
        """Hand on what is whole."""
        self._heard = self._loop.time()
        try:
            for frame in self._reader.feed(data):
                self._receive(frame)
        except wire.WireError as error:
            self.fail(ConnectionLost(f"the broker sent what is no frame: {error}"))
        except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
            self.fail(ConnectionLost(f"the broker sent a frame that is not well formed: {error!r}"))

    def pause_writing(self) -> None:
        """The socket is full: publishes wait."""
        self.paused = True

    def resume_writing(self) -> None:
        """It has drained."""
        self.paused = False
        self._writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        if self._timer is not None:
            self._timer.cancel()
        if self.error is None and exc is not None:
            known = tls.failure(exc, "the broker")
            self.error = known or ConnectionLost(f"the connection to the broker is lost: {exc}")
        if not self.welcomed.done():
            self.welcomed.set_exception(self.error or ConnectionLost(self._closed_at_once()))
            self.welcomed.exception()  # heard or not
        if not self.ended.done():
            self.ended.set_result(None)

    def _closed_at_once(self) -> str:
        text = "the broker closed the connection at once"
        by_tls = self._transport is not None and self._transport.get_extra_info("ssl_object") is not None
        # asyncio's servers close without the alert that would say so.
        return f"{text}; it may want a client certificate that it trusts (certificate=)" if by_tls else text

    # Frames

    def _receive(self, frame: wire.Frame) -> None:
        kind = frame[0]
        if kind == wire.WELCOME and not self.welcomed.done():
            self._welcome(wire.padded(frame, 3)[2] or {})
            self._handle(self, frame)
        elif kind == wire.PING:
            self.write(wire.pack((wire.PONG, *frame[1:2])))
        elif kind == wire.ERROR and wire.padded(frame, 2)[1] is None:
            _, _, code, text = wire.padded(frame, 4)
            self.fail(refusal(str(code), text))
        elif self.welcomed.done() and not self.ended.done():
            self._handle(self, frame)

    def _welcome(self, settings: dict[str, Any]) -> None:
        self._reader.limit = int(settings.get("max_frame") or 8 << 20)
        self._heartbeat = float(settings.get("heartbeat") or 0)
        if self._heartbeat > 0:
            self._timer = self._loop.call_later(self._heartbeat / 2, self._beat)
        self.welcomed.set_result(settings)

    def _beat(self) -> None:
        now = self._loop.time()
        if now - self._heard >= 2 * self._heartbeat:
            self.fail(ConnectionLost(f"the broker was silent for {2 * self._heartbeat:g} seconds"))
            return
        if now - min(self._heard, self._said) >= self._heartbeat / 2:
            self.write(wire.pack((wire.PING,)))
        self._timer = self._loop.call_later(self._heartbeat / 2, self._beat)

    # Out

    def write(self, data: bytes) -> None:
        """Send bytes; on a connection that is going down they are dropped."""
        if self._transport is not None and not self._transport.is_closing():
            self._said = self._loop.time()
            self._transport.write(data)

    def fail(self, error: PostroomError) -> None:
        """Break the connection off."""
        self.error = error
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def goodbye(self) -> None:
        """Close in peace: the broker answers what it owes, then closes."""
        self.closing = self.parted = True
        self.write(wire.pack((wire.GOODBYE,)))


async def dial(
    address: Address, make: Callable[[], Link], timeout: float, context: ssl.SSLContext | None = None
) -> Link:
    """Connect, by TLS when there is a `context`, and be greeted. Raises OSError, TimeoutError, or PostroomError when
    the broker refuses."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        if address.path:
            _, link = await loop.create_unix_connection(make, address.path)
        else:
            _, link = await loop.create_connection(make, address.host, address.port, ssl=context)
        try:
            await link.welcomed
        except BaseException:
            link.abort()
            raise
    return link
