"""The asyncio shell of the native protocol: sockets, deadlines and heartbeats around `session`. Floor 4."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

from broker.auth.doorkeeper import Doorkeeper, Trusting
from broker.auth.identity import Credentials, Identity
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.net.address import UNIX, host_port, is_here, peer_of
from broker.net.admission import Admission
from broker.net.deadline import Deadlines
from broker.net.handshake import Listener, accept
from broker.net.tls import Tls, peer_names
from broker.observe.access import access, access_wanted
from broker.observe.origin import ORIGIN, Asked
from broker.protocols.native import wire
from broker.protocols.native.options import NativeOptions
from broker.protocols.native.requests import Requests
from broker.protocols.native.session import MAX_REQUESTS, Session

logger = logging.getLogger(__name__)
HIGH_WATER = 4 << 20
_PLAIN = wire.encode((wire.ERROR, None, Code.BAD_FRAME.value, "This port speaks TLS; write postrooms://HOST:PORT."))
"""The answer to a client that speaks plainly where TLS is spoken."""


class Connection(asyncio.Protocol):
    """One socket; the `Shell` of its session, and an OpenConnection of the register."""

    door = "native"
    id = ""
    since = 0.0
    address, port = UNIX, 0
    principal: Principal | None = None
    identity: Identity | None = None
    peer_names: tuple[str, ...] = ()  # of the client's certificate

    def __init__(self, server: "NativeServer") -> None:
        self.server = server
        self.session = Session(server.hub, self, server.options.heartbeat)
        self.heard = True
        self.asked = False
        self.admitted = False
        self.held = False  # we do not read
        self._tasks: set[asyncio.Task[None]] = set()
        self._verbs: Requests

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.address, self.port = peer_of(transport)
        self.peer_names = peer_names(transport)
        try:
            self.server.admission.admit(self)
        except BrokerError as error:
            self.session.fail(error)
            return
        self.admitted = True
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.server.connections.add(self)
        self.server.hellos.begin(self)

    def data_received(self, data: bytes) -> None:
        """Read."""
        self.heard = True
        session = self.session
        if session.closed:
            return
        session.receive(data)
        if session.hello is not None:
            self.server.hellos.end(self)
        self.server.admission.received(len(data))

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.session.full(full=True)

    def resume_writing(self) -> None:
        """It has drained."""
        self.session.full(full=False)

    def connection_lost(self, _: Exception | None) -> None:
        """Gone."""
        self.server.connections.discard(self)
        self.server.hellos.end(self)
        if self.admitted:
            self.server.admission.leave(self)
        for task in self._tasks:
            task.cancel()
        self._log_end()
        self.session.lost()
        self.server.forget(self)

    def _log_end(self) -> None:
        """One line of the access log."""
        session = self.session
        failed = session.error is not None and session.error.code is not Code.SHUTTING_DOWN
        if access_wanted(failed=failed):
            access(
                "connection",
                failed=failed,
                door=self.door,
                address=host_port(self.address, self.port),
                principal=self.principal and self.principal.name,
                client=session.client,
                publisher=session.publisher,
                connection=self.id,
                seconds=round(time.time() - self.since, 3) if self.since else None,
                code=session.error and session.error.code.value,
                error=session.error and session.error.detail,
            )

    # Of the register

    @property
    def client(self) -> str:
        """What the client calls itself."""
        return self.session.client

    @property
    def arriving(self) -> int:
        """Bytes of a frame that is not whole yet, and of frames put aside."""
        return self.session.kept

    @property
    def unsent(self) -> int:
        """Bytes that the client has not read."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def dismiss(self, error: BrokerError) -> None:
        """Tell why in an ERROR and close; what was in hand is ready again at no cost."""
        self.session.dismiss(error)

    # Shell

    def write(self, data: bytes) -> None:
        """Send; a reader that lets too much pile up is let go."""
        self.transport.write(data)
        self.server.admission.sent(len(data))
        if self.transport.get_write_buffer_size() > self.server.hub.limits.max_unsent_per_connection + HIGH_WATER:
            logger.warning("a slow reader was closed", extra={"client": self.session.client})
            self.session.closed = True
            self.transport.abort()

    def close(self) -> None:
        """Send what was written, then close."""
        self.transport.close()

    def hold(self, *, reading: bool) -> None:
        """Stop or go on reading."""
        self.held = not reading
        if self.transport.is_closing():
            return
        if reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def identify(self, credentials: Credentials | None) -> Identity | None:
        """By credentials, certificate or place; a password takes a task."""
        keeper = self.server.doorkeeper
        identity = keeper.check(keeper.greet(here=is_here(self.address), names=self.peer_names), credentials)
        if identity is None and credentials is not None:
            self._run(self._prove(credentials))
        return identity

    async def _prove(self, credentials: Credentials) -> None:
        try:
            identity = await self.server.doorkeeper.prove(credentials, self.address)
        except BrokerError as error:
            self.session.fail(error)
        except Exception:
            logger.exception("a password could not be verified")
            self.session.fail(BrokerError(Code.INTERNAL))
        else:
            self.session.identified(identity)

    def greeted(self, identity: Identity) -> None:
        """HELLO said who speaks."""
        self.identity, self.principal = identity, identity.principal
        self.server.admission.identify(self)
        self._verbs = Requests(self.server.hub, identity.principal)

    def take_over(self, publisher: str) -> None:
        """This connection now speaks for the publisher."""
        other = self.server.publishers.get(publisher)
        self.server.publishers[publisher] = self
        if other is not None:
            other.session.fail(BrokerError(Code.CONFLICT, "another connection speaks for this publisher now"))

    def soon(self, call: Callable[[], object]) -> None:
        """After this step of the loop."""
        self.server.loop.call_soon(call)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """After so long."""
        self.server.loop.call_later(seconds, call)

    def request(self, number: int, verb: str, arguments: Any) -> None:
        """Run it in a task: requests are rare and slow."""
        if len(self._tasks) >= MAX_REQUESTS:
            self.session.send(wire.ERROR, number, Code.RATE_LIMITED.value, "too many requests at once")
            return
        self._run(self._answer(number, verb, arguments))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.server.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, verb: str, arguments: Any) -> None:
        ORIGIN.set(Asked(self.door, self.address, f"{self.id}-{number}"))
        try:
            self.session.reply(number, await self._verbs.answer(verb, arguments))
        except BrokerError as error:
            self.session.send(wire.ERROR, number, error.code.value, error.text)
        except (TypeError, ValueError, KeyError) as error:
            self.session.send(wire.ERROR, number, Code.BAD_REQUEST.value, f"arguments do not fit: {error}")
        except Exception:
            logger.exception("a request failed", extra={"verb": verb})
            self.session.send(wire.ERROR, number, Code.INTERNAL.value, "see the broker's log")


class NativeServer:
    """All connections of the native protocol on the sockets it is given."""

    def __init__(
        self,
        hub: Hub,
        options: NativeOptions,
        admission: Admission | None = None,
        tls: Tls | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        self.hub = hub
        self.options = options
        self.tls = tls
        self.doorkeeper = doorkeeper or Trusting()
        self.admission = Admission(hub.limits, hub.flow.limited) if admission is None else admission
        self.connections: set[Connection] = set()
        self.publishers: dict[str, Connection] = {}
        self._listeners: list[Listener] = []
        self._beat: asyncio.TimerHandle | None = None
        self.loop: asyncio.AbstractEventLoop
        self.hellos: Deadlines[Connection]

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these listening sockets."""
        self.loop = asyncio.get_running_loop()
        self.hellos = Deadlines(self.loop, self.options.hello_timeout / 1000, self._too_late)
        for sock in sockets:
            listener = await accept(
                sock, lambda: Connection(self), door="native", admission=self.admission, tls=self.tls, plain=_PLAIN
            )
            self._listeners.append(listener)
        self._beat = self.loop.call_later(self.options.heartbeat / 1000, self._heartbeat)

    def _too_late(self, connection: Connection) -> None:
        connection.session.fail(BrokerError(Code.NOT_GREETED, "no HELLO in time"))

    def _heartbeat(self) -> None:
        """Ask who was silent for a period; close who was silent for two. Whom we do not read cannot be heard, but shall
        hear that we live, unless it was let go and does not read that."""
        for connection in list(self.connections):
            if connection.held and not connection.session.closed:
                connection.session.send(wire.PING, None)
            elif connection.heard:
                connection.heard = connection.asked = False
            elif connection.asked:
                connection.transport.abort()
            else:
                connection.asked = True
                connection.session.send(wire.PING, None)
        self._beat = self.loop.call_later(self.options.heartbeat / 1000, self._heartbeat)

    def forget(self, connection: Connection) -> None:
        """It is gone."""
        publisher = connection.session.publisher
        if publisher is not None and self.publishers.get(publisher) is connection:
            del self.publishers[publisher]

    def drain(self) -> None:
        """Accept no one, deliver nothing more, tell the clients."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.session.drain("the daemon is stopping")

    async def stop(self) -> None:
        """Close everything."""
        if self._beat is not None:
            self._beat.cancel()
        self.hellos.close()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.session.close()
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.transport.abort()
