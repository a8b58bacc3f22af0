"""From a TCP connection to a door's protocol over TLS.

asyncio's own server tells a protocol of a connection only after its handshake, so that one who connects and says
nothing would be seen by no limit, and its context is fixed for good. Here a connection takes its place among all
others when it is accepted, has until the handshake's deadline, and shakes hands with the context of that moment. Who
speaks plainly is answered plainly. Floor 3.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from broker.core.errors import BrokerError
from broker.net.address import host_port
from broker.net.admission import Admission
from broker.net.deadline import Deadlines
from broker.net.listener import BACKLOG
from broker.net.tls import Tls
from broker.observe.access import access, access_wanted

log = logging.getLogger(__name__)

HANDSHAKE = b"\x16"
"""The first byte of a TLS connection: a record of the handshake (RFC 8446 §5.1)."""
SHUTDOWN_SECONDS = 5.0
"""For how long the other side's farewell is waited for."""
AT_ONCE = 100
"""Connections accepted in one turn of the loop."""
REST = 1.0
"""Seconds without accepting after the system had no descriptor or memory for a connection."""
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Factory = Callable[[], asyncio.Protocol]


class Listener(Protocol):
    """What accepts connections: an asyncio.Server, or ours."""

    def close(self) -> None:
        """Accept no more; connections that were handed to the door stay."""


async def accept(
    sock: socket.socket,
    factory: Factory,
    *,
    door: str,
    admission: Admission,
    tls: Tls | None,
    plain: bytes,
) -> Listener:
    """Give each connection on a listening socket a protocol; by TLS if there is `tls` and the socket is none of this
    machine's file system. `plain` is the answer to a client that does not speak TLS where it should."""
    if (
        sock.family != socket.AF_UNIX
    ):  # accepted sockets inherit it: a peer that vanished is found out, even a silent one
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if tls is None or sock.family == socket.AF_UNIX:
        return await asyncio.get_running_loop().create_server(factory, sock=sock, backlog=BACKLOG)
    return TlsListener(sock, factory, door, admission, tls, plain)


class Arrival:
    """A connection before its handshake: an `OpenConnection` that nobody speaks on yet."""

    principal = None
    identity = None
    client = ""
    arriving = unsent = 0

    def __init__(self, listener: "TlsListener", sock: socket.socket, peer: tuple[str, int]) -> None:
        self.id = ""
        self.since = 0.0
        self.door = listener.door
        self.address, self.port = peer
        self.sock = sock
        self.shaking: asyncio.Task[None] | None = None
        self._listener = listener

    def dismiss(self, error: BrokerError) -> None:
        """There is no way to say anything yet."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._listener.drop(self, "dismissed")


class _Gate(asyncio.Protocol):
    """Exchanges the arrival for the door's connection in one step, so that it never counts twice."""

    def __init__(self, listener: "TlsListener", arrival: Arrival) -> None:
        self._listener = listener
        self._arrival = arrival

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        protocol = self._listener.made(self._arrival)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class TlsListener:
    """Accepts on one socket until closed. Made in a running loop."""

    def __init__(
        self, sock: socket.socket, factory: Factory, door: str, admission: Admission, tls: Tls, plain: bytes
    ) -> None:
        self.door = door
        self._sock = sock
        self._factory = factory
        self._admission = admission
        self._tls = tls
        self._plain = plain
        self._loop = asyncio.get_running_loop()
        self._arrivals: set[Arrival] = set()
        self._deadlines: Deadlines[Arrival] = Deadlines(self._loop, tls.timeout, self._late)
        self._resting: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accept no more, and let go of who has not shaken hands."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        if self._resting is not None:
            self._resting.cancel()
        self._sock.close()
        for arrival in list(self._arrivals):
            self.drop(arrival)
        self._deadlines.close()

    # Accepted

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SCARCE:
                    raise
                log.error("no more connections can be accepted", extra={"door": self.door, "error": str(error)})  # noqa: TRY400
                self._loop.remove_reader(self._sock)
                self._resting = self._loop.call_later(REST, self._loop.add_reader, self._sock, self._accept)
                return
            self._arrive(sock, (peer[0], peer[1]))

    def _arrive(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        arrival = Arrival(self, sock, peer)
        try:
            self._admission.admit(arrival)
        except BrokerError:  # there is no way to say so yet
            sock.close()
            return
        sock.setblocking(False)
        self._arrivals.add(arrival)
        self._deadlines.begin(arrival)
        self._loop.add_reader(sock, self._look, arrival)

    def _look(self, arrival: Arrival) -> None:
        """The first byte is here: does the client speak TLS?"""
        try:
            first = arrival.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        if first == HANDSHAKE:
            self._loop.remove_reader(arrival.sock)
            arrival.shaking = self._loop.create_task(self._shake(arrival), name=f"handshake {self.door}")
            return
        if first:
            self._answer_plainly(arrival.sock)
        self.drop(arrival, "plain" if first else "lost")

    def _answer_plainly(self, sock: socket.socket) -> None:
        """What the client sent is taken first: a socket closed over unread bytes takes the answer along."""
        try:
            sock.recv(1 << 16)
            sock.send(self._plain)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone; there is nobody to be told

    # Shaking hands

    async def _shake(self, arrival: Arrival) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: _Gate(self, arrival),
                arrival.sock,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._tls.timeout + 1,  # the deadline comes before it
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except OSError as error:
            self._failed(arrival, _reason(error), error)
        finally:
            self._leave(arrival)

    def made(self, arrival: Arrival) -> asyncio.Protocol:
        """The handshake is done: the door's protocol takes the place."""
        self._leave(arrival)
        return self._factory()

    def _late(self, arrival: Arrival) -> None:
        self.drop(arrival, "timeout")

    def drop(self, arrival: Arrival, reason: str = "") -> None:
        """Close it; a `reason` is counted."""
        if reason:
            self._failed(arrival, reason)
        if arrival.shaking is not None:
            # Closes the transport that has the socket now. Not at once: a task that has not begun would end without its
            # `finally`, and the place be lost for good.
            self._loop.call_soon(arrival.shaking.cancel)
        else:
            self._loop.remove_reader(arrival.sock)
            arrival.sock.close()
            self._leave(arrival)

    def _failed(self, arrival: Arrival, reason: str, error: Exception | None = None) -> None:
        self._tls.failures[reason] += 1
        failed = reason != "lost"  # who only looks whether the port is open is no failure
        if access_wanted(failed=failed):
            address = host_port(arrival.address, arrival.port)
            text = None if error is None else str(error)
            access("no handshake", failed=failed, door=self.door, address=address, reason=reason, error=text)

    def _leave(self, arrival: Arrival) -> None:
        if arrival in self._arrivals:
            self._arrivals.remove(arrival)
            self._deadlines.end(arrival)
            self._admission.leave(arrival)


def _reason(error: OSError) -> str:
    """One of few words for what the error says."""
    name = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE" in name or "UNKNOWN_CA" in name:
        return "certificate"
    if "VERSION" in name or "PROTOCOL" in name or "CIPHER" in name:
        return "version"
    return "tls" if isinstance(error, ssl.SSLError) else "lost"
