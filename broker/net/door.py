"""A door whose protocol is our own: where it listens, who comes in, and the shell of each of its connections.

Its server is a `Door`, each of its sockets a `DoorConnection`: that has a place in the register, writes within bounds,
reads when it may, and leaves a line in the access log. What is spoken is left to the protocol. (HTTP's connections are
aiohttp's; they share the register alone.) Floor 3.
"""

import asyncio
import logging
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from broker.auth.doorkeeper import Doorkeeper, Trusting
from broker.auth.identity import Credentials, Identity
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.net.address import UNIX, host_port, is_here, peer_of
from broker.net.admission import Admission
from broker.net.handshake import Listener, accept
from broker.net.tls import Tls, peer_names
from broker.observe.access import access, access_wanted

logger = logging.getLogger(__name__)
LINGER = 2.0
"""Seconds for a client to read why it is let go; meanwhile what it sends is thrown away."""

C = TypeVar("C", bound="DoorConnection")


class Door(Generic[C]):
    """See the module. `plain` is the answer to a client that speaks plainly where TLS is spoken."""

    name: ClassVar[str]
    plain: ClassVar[bytes] = b""

    def __init__(
        self,
        hub: Hub,
        admission: Admission | None = None,
        tls: Tls | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        self.hub = hub
        self.tls = tls
        self.doorkeeper = doorkeeper or Trusting()
        self.admission = Admission(hub.limits, hub.flow.limited) if admission is None else admission
        self.connections: set[C] = set()
        self._listeners: list[Listener] = []
        self.loop: asyncio.AbstractEventLoop

    async def listen(self, sockets: Sequence[socket.socket], connection: Callable[[], C]) -> None:
        """Accept on these listening sockets."""
        for sock in sockets:
            self._listeners.append(
                await accept(sock, connection, door=self.name, admission=self.admission, tls=self.tls, plain=self.plain)
            )

    def shut(self) -> None:
        """Accept no one any more."""
        for listener in self._listeners:
            listener.close()

    async def abort(self) -> None:
        """Close what did not close by itself."""
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.transport.abort()


class DoorConnection(asyncio.Protocol, ABC):
    """One socket; an OpenConnection of the register."""

    high_water: ClassVar[int] = 1 << 20
    """Bytes unsent at which the socket counts as full."""
    id = ""
    since = 0.0
    address, port = UNIX, 0
    principal: Principal | None = None
    identity: Identity | None = None
    peer_names: tuple[str, ...] = ()  # of the client's certificate
    transport: asyncio.Transport

    def __init__(self, server: Door[Any]) -> None:
        self.server = server
        self.held = False  # we do not read
        self._admitted = False  # to the register
        self._tasks: set[asyncio.Task[None]] = set()
        self._linger: asyncio.TimerHandle | None = None

    # What the protocol says

    @property
    @abstractmethod
    def client(self) -> str:
        """What the client calls itself."""

    @property
    @abstractmethod
    def error(self) -> BrokerError | None:
        """Why it ended, if not by the client's wish."""

    @property
    @abstractmethod
    def arriving(self) -> int:
        """Bytes kept of what has not come to its end."""

    @abstractmethod
    def opened(self) -> None:
        """It has its place: begin."""

    @abstractmethod
    def turned_away(self, error: BrokerError) -> None:
        """There is no place for it: close."""

    @abstractmethod
    def too_slow(self, error: BrokerError) -> None:
        """The client lets too much pile up: close at once."""

    @abstractmethod
    def dismiss(self, error: BrokerError) -> None:
        """Tell why and close."""

    def about(self) -> Mapping[str, object]:
        """What its line of the access log says beside the usual."""
        return {}

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.address, self.port = peer_of(transport)
        self.peer_names = peer_names(transport)
        try:
            self.server.admission.admit(self)
        except BrokerError as error:
            self.turned_away(error)
            return
        self._admitted = True
        transport.set_write_buffer_limits(high=self.high_water)
        self.server.connections.add(self)
        self.opened()

    def connection_lost(self, _: Exception | None) -> None:
        """Gone."""
        if self._linger is not None:
            self._linger.cancel()
        self.server.connections.discard(self)
        if self._admitted:
            self.server.admission.leave(self)
        self._log_end()

    def _log_end(self) -> None:
        """One line of the access log."""
        error = self.error
        failed = error is not None and error.code is not Code.SHUTTING_DOWN
        if access_wanted(failed=failed):
            access(
                "connection",
                failed=failed,
                door=self.door,
                address=host_port(self.address, self.port),
                principal=self.principal and self.principal.name,
                client=self.client,
                **self.about(),
                connection=self.id,
                seconds=round(time.time() - self.since, 3) if self.since else None,
                code=error and error.code.value,
                error=error and error.detail,
            )

    # Of the register

    @property
    def door(self) -> str:
        """Its name."""
        return self.server.name

    @property
    def unsent(self) -> int:
        """Bytes that the client has not read."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    # Who it is

    def recognize(self, credentials: Credentials | None) -> Identity | None:
        """By credentials, certificate or place; None: a password is to be proven. Raises UNAUTHENTICATED, FORBIDDEN."""
        keeper = self.server.doorkeeper
        return keeper.check(keeper.greet(here=is_here(self.address), names=self.peer_names), credentials)

    def speaks_for(self, identity: Identity) -> None:
        """It is known who speaks. Raises RATE_LIMITED when that one has connections enough."""
        self.identity, self.principal = identity, identity.principal
        self.server.admission.identify(self)

    # In and out

    def write(self, data: bytes) -> None:
        """Send; a reader that lets too much pile up is let go."""
        self.transport.write(data)
        self.server.admission.sent(len(data))
        most = self.server.hub.limits.max_unsent_per_connection + self.high_water
        if self.transport.get_write_buffer_size() > most:
            logger.warning("a slow reader was closed", extra={"door": self.door, "client": self.client})
            self.too_slow(BrokerError(Code.SLOW_READER))

    def hold(self, *, reading: bool) -> None:
        """Stop or go on reading."""
        self.held = not reading
        if self.transport.is_closing():
            return
        if reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def run(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """In a task that is kept until it is done."""
        task = self.server.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def part(self, words: bytes) -> None:
        """Close with these last words, so that they can be read: a socket that is closed over unread bytes takes them
        along, hence what comes is read and thrown away for a while."""
        if self.transport.is_closing():
            return
        if words:
            self.transport.write(words)
            self.linger()
        else:
            self.transport.close()

    def linger(self) -> None:
        """The same when they were written already."""
        if self._half_closed():
            if self.held:
                self.transport.resume_reading()
            self._linger = self.server.loop.call_later(LINGER, self.transport.abort)
        else:
            self.transport.close()

    def _half_closed(self) -> bool:
        """Say that nothing more comes; False where that cannot be said, or nobody is there to hear it."""
        try:
            if self.transport.can_write_eof():
                self.transport.write_eof()
                return True
        except OSError:
            pass
        return False
