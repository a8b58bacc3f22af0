"""The asyncio shell of the native protocol: sockets, deadlines and heartbeats around `session`. Floor 4."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from broker.auth.doorkeeper import Doorkeeper
from broker.auth.identity import Credentials, Identity
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.net.admission import Admission
from broker.net.deadline import Deadlines
from broker.net.door import Door, DoorConnection
from broker.net.tls import Tls
from broker.observe.origin import ORIGIN, Asked
from broker.protocols.native import wire
from broker.protocols.native.options import NativeOptions
from broker.protocols.native.requests import Requests
from broker.protocols.native.session import MAX_REQUESTS, Session

logger = logging.getLogger(__name__)
_PLAIN = wire.encode((wire.ERROR, None, Code.BAD_FRAME.value, "This port speaks TLS; write postrooms://HOST:PORT."))
"""The answer to a client that speaks plainly where TLS is spoken."""


class Connection(DoorConnection):
    """One socket; the `Shell` of its session."""

    high_water = 4 << 20
    server: "NativeServer"

    def __init__(self, server: "NativeServer") -> None:
        super().__init__(server)
        self.session = Session(server.hub, self, server.options.heartbeat)
        self.heard = True
        self.asked = False
        self._verbs: Requests

    # asyncio.Protocol

    def opened(self) -> None:
        """See DoorConnection."""
        self.server.hellos.begin(self)

    def turned_away(self, error: BrokerError) -> None:
        """See DoorConnection."""
        self.session.fail(error)

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

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        super().connection_lost(exc)
        self.server.hellos.end(self)
        for task in self._tasks:
            task.cancel()
        self.session.lost()
        self.server.forget(self)

    # Of the register

    @property
    def client(self) -> str:
        """What the client calls itself."""
        return self.session.client

    @property
    def error(self) -> BrokerError | None:
        """What the client was told at the end."""
        return self.session.error

    def about(self) -> Mapping[str, object]:
        """See DoorConnection."""
        return {"publisher": self.session.publisher}

    @property
    def arriving(self) -> int:
        """Bytes of a frame that is not whole yet, and of frames put aside."""
        return self.session.kept

    def dismiss(self, error: BrokerError) -> None:
        """Tell why in an ERROR and close; what was in hand is ready again at no cost."""
        self.session.dismiss(error)

    def too_slow(self, error: BrokerError) -> None:
        """See DoorConnection."""
        self.session.error = error
        self.session.closed = True
        self.transport.abort()

    # Shell

    def close(self) -> None:
        """Send what was written, then close; so that it can be read when it says why."""
        if self.session.error is None or not self._admitted or self.transport.is_closing():
            self.transport.close()
        else:
            self.linger()

    def after_requests(self, call: Callable[[], object]) -> None:
        """When those at work are answered."""
        if self._tasks:
            asyncio.gather(*self._tasks, return_exceptions=True).add_done_callback(lambda _: call())
        else:
            call()

    def identify(self, credentials: Credentials | None) -> Identity | None:
        """By credentials, certificate or place; a password takes a task."""
        identity = self.recognize(credentials)
        if identity is None and credentials is not None:
            self.run(self._prove(credentials))
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
        self.speaks_for(identity)
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
        self.run(self._answer(number, verb, arguments))

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


class NativeServer(Door[Connection]):
    """All connections of the native protocol on the sockets it is given."""

    name = "native"
    plain = _PLAIN

    def __init__(
        self,
        hub: Hub,
        options: NativeOptions,
        admission: Admission | None = None,
        tls: Tls | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        super().__init__(hub, admission, tls, doorkeeper)
        self.options = options
        self.publishers: dict[str, Connection] = {}
        self._beat: asyncio.TimerHandle | None = None
        self.hellos: Deadlines[Connection]

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these listening sockets."""
        self.loop = asyncio.get_running_loop()
        self.hellos = Deadlines(self.loop, self.options.hello_timeout / 1000, self._too_late)
        await self.listen(sockets, lambda: Connection(self))
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
        self.shut()
        for connection in list(self.connections):
            connection.session.drain("the daemon is stopping")

    async def stop(self) -> None:
        """Close everything."""
        if self._beat is not None:
            self._beat.cancel()
        self.hellos.close()
        self.shut()
        for connection in list(self.connections):
            connection.session.close()
        await self.abort()
