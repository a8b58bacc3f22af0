"""One MQTT connection: the socket, CONNECT, and which part of the door takes which packet. Floor 4."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from broker.auth.identity import Credentials, Identity
from broker.auth.principal import NOBODY, Principal
from broker.core.errors import BrokerError, Code
from broker.engine.base import Receipt, Unit
from broker.net.address import UNIX, host_port, is_here, peer_of
from broker.net.deadline import Deadlines
from broker.net.tls import peer_names
from broker.observe.access import access, access_wanted
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError, forbidden
from broker.protocols.mqtt.codec.fitting import Answer, encode_fitting
from broker.protocols.mqtt.codec.packets import (
    NONE,
    V5,
    V311,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Publish,
    Subscribe,
    Unsubscribe,
)
from broker.protocols.mqtt.codec.reasons import FROM_SERVER
from broker.protocols.mqtt.flow.aliases import AliasesIn
from broker.protocols.mqtt.flow.keep_alive import GRACE
from broker.protocols.mqtt.flow.quota import Quota
from broker.protocols.mqtt.gate import Gate
from broker.protocols.mqtt.greeting import credentials_in, expiry_of, keep_alive_of, promises, unproven
from broker.protocols.mqtt.intake import MAX_REASON, Intake
from broker.protocols.mqtt.sender import UNBOUNDED, Sender
from broker.protocols.mqtt.session import Session

if TYPE_CHECKING:
    from broker.protocols.mqtt.server import MqttServer

logger = logging.getLogger(__name__)
HIGH_WATER = 1 << 20
LINGER = 2.0
"""Seconds for a client to read why it is let go; meanwhile what it sends is thrown away."""
MAX_CLIENT_ID = 1_024
UNTOLD = 65_535
"""What a client may have unanswered whom we cannot tell less, and what it takes so if it says nothing."""
_UNSPEAKABLE = (Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR, Reason.PACKET_TOO_LARGE)
"""What a CONNACK of older versions has no word for, and which ends the connection there without one."""
_PING = encode(Pingresp(), V311)


class Connection(asyncio.Protocol):
    """One socket; an OpenConnection of the register."""

    door = "mqtt"
    id = ""
    since = 0.0
    address, port = UNIX, 0
    principal: Principal | None = None
    identity: Identity | None = None
    session: Session
    gate: Gate

    def __init__(self, server: "MqttServer") -> None:
        self.server = server
        self.identified: Principal = NOBODY
        self.client = ""
        self.version = 0
        self.largest = 0
        """Packets over this many bytes are not sent; 0: any size."""
        self.decoder = Decoder(server.packet_limits)
        self.quota = Quota(UNTOLD)
        self.aliases = AliasesIn(0)
        self.error: BrokerError | None = None
        self.peer_names: tuple[str, ...] = ()
        self._admitted = False  # to the register
        self._begun = False  # CONNACK was sent
        self.closed = False
        self._explains = True  # the client wants reason strings
        self._aside: deque[Packet] = deque()
        self._working: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = False
        self._silence: Deadlines[Connection] | None = None
        self._linger: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted."""
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.address, self.port = peer_of(transport)
        self.peer_names = peer_names(transport)
        try:
            self.server.admission.admit(self)
        except BrokerError as error:
            self.error = error
            self.closed = True
            transport.close()
            return
        self._admitted = True
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.server.connections.add(self)
        self.server.connecting.begin(self)

    def data_received(self, data: bytes) -> None:
        """Read."""
        if self.closed:
            return
        if self._silence is not None:
            self._silence.begin(self)
        try:
            packets: Sequence[Packet] = self.decoder.feed(data)
        except MqttError as fault:
            self.version = self.decoder.version
            self._take(fault.before)
            self.fail(fault)
            return
        self._take(packets)
        self.server.admission.received(len(data))

    def eof_received(self) -> bool:
        """The client will send no more: it is gone."""
        return False

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        if self._begun and self.session.sender is not None:
            self.session.sender.full = True

    def resume_writing(self) -> None:
        """It has drained."""
        if self._begun and self.session.sender is not None:
            self.session.sender.resume()
            for tie in self.session.ties():
                tie.top_up()

    def connection_lost(self, _: Exception | None) -> None:
        """Gone."""
        self._end(willing=False)
        if self._linger is not None:
            self._linger.cancel()
        self.server.connections.discard(self)
        if self._admitted:
            self.server.admission.leave(self)
        self._log_end()

    def _log_end(self) -> None:
        """One line of the access log."""
        failed = self.error is not None and self.error.code is not Code.SHUTTING_DOWN
        if access_wanted(failed=failed):
            access(
                "connection",
                failed=failed,
                door=self.door,
                address=host_port(self.address, self.port),
                principal=self.principal and self.principal.name,
                client=self.client,
                connection=self.id,
                seconds=round(time.time() - self.since, 3) if self.since else None,
                code=self.error and self.error.code.value,
                error=self.error and self.error.detail,
            )

    # Of the register

    @property
    def arriving(self) -> int:
        """Bytes of a packet that is not whole yet."""
        return self.decoder.kept

    @property
    def unsent(self) -> int:
        """Bytes that the client has not read."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once."""
        self._end(willing=False)
        self.transport.abort()

    def dismiss(self, error: BrokerError) -> None:
        """Tell why and close."""
        self.fail(error)

    # Out

    def write(self, data: bytes) -> None:
        """Send; a reader that lets too much pile up is let go."""
        if self.closed:
            return
        self.transport.write(data)
        self.server.admission.sent(len(data))
        if self.transport.get_write_buffer_size() > self.server.hub.limits.max_unsent_per_connection + HIGH_WATER:
            logger.warning("a slow reader was closed", extra={"client": self.client})
            self.error = BrokerError(Code.SLOW_READER)
            self.abort()

    def send(self, packet: Answer) -> None:
        """The same for an answer, as large and as wordy as the client wants it. [MQTT-3.1.2-24, 3.1.2-29]"""
        written = self.written(packet)
        if written is not None:
            self.write(written)

    def written(self, packet: Answer) -> bytes | None:
        """An answer in bytes; None when the client does not take one of its size."""
        return encode_fitting(packet, self.version, self.largest, problems=self._explains)

    def commit(self, unit: Unit, then: bytes) -> None:
        """Write these bytes once the unit is on disk."""

        def done(receipt: Receipt) -> None:
            if receipt.error is not None:
                self.fail(receipt.error)
            else:
                self.write(then)

        unit.done = done
        try:
            self.server.hub.commit(unit)
        except BrokerError as error:
            self.fail(error)

    def hold(self, *, reading: bool) -> None:
        """Stop or go on reading; who is not read cannot be silent."""
        self._held = not reading
        if self.transport.is_closing():
            return
        if reading:
            self.transport.resume_reading()
            if self._silence is not None and not self.closed:
                self._silence.begin(self)
        else:
            self.transport.pause_reading()
            if self._silence is not None:
                self._silence.end(self)

    # In

    def _take(self, packets: Sequence[Packet]) -> None:
        """Handle what one read brought; behind a packet that takes time, the rest waits."""
        if self._working is not None:
            self._aside.extend(packets)
            return
        try:
            for at, packet in enumerate(packets):
                kind = type(packet)
                if kind is Publish:
                    self.intake.publish(packet)  # type: ignore[arg-type]
                elif kind is Ack:
                    self._acknowledged(packet)  # type: ignore[arg-type]
                else:
                    self._handle(packet)
                if self.closed:
                    return
                if self._working is not None:
                    self._aside.extend(packets[at + 1 :])
                    break
            if self._begun:
                self.intake.submit()
        except BrokerError as error:
            self._give_up(error)

    def _give_up(self, error: BrokerError) -> None:
        """What came before the fault is still done."""
        if self._begun and not self.closed:
            try:
                self.intake.submit()
            except BrokerError as failure:
                error = failure
        self.fail(error)

    def _acknowledged(self, ack: Ack) -> None:
        if ack.kind is Kind.PUBREL:
            self.intake.release(ack)
        elif self.session.sender is not None:
            self.session.sender.answered(ack)

    def _handle(self, packet: Packet) -> None:
        if isinstance(packet, Connect):
            self._connect(packet)
        elif isinstance(packet, Pingreq):
            self.write(_PING)
        elif isinstance(packet, Subscribe):
            self.intake.submit()
            subscribing = self.server.subscribing
            if subscribing.is_quick(self.session, packet):
                subscribing.subscribe_now(self, packet)
            else:
                self._work(subscribing.subscribe(self, packet))
        elif isinstance(packet, Unsubscribe):
            self.intake.submit()
            subscribing = self.server.subscribing
            if subscribing.is_quick(self.session, packet):
                subscribing.unsubscribe_now(self, packet)
            else:
                self._work(subscribing.unsubscribe(self, packet))
        elif isinstance(packet, Disconnect):
            self._goodbye(packet)
        else:
            raise MqttError(Reason.BAD_AUTHENTICATION_METHOD, "there is no extended authentication here")

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that has to wait for the disk; packets that come meanwhile are taken after it."""
        self._working = task = self.server.loop.create_task(self._worked(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._begun:
            self.gate.close("work")

    async def _worked(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BrokerError as error:
            self.fail(error)
        except Exception:
            logger.exception("a packet could not be handled", extra={"client": self.client})
            self.fail(BrokerError(Code.INTERNAL, "see the broker's log"))
        if self._working is not asyncio.current_task():  # it went on to more of it
            return
        self._working = None
        if self._begun:
            self.gate.open("work")
        if not self.closed:
            aside, self._aside = list(self._aside), deque()
            self._take(aside)

    # CONNECT

    def _connect(self, packet: Connect) -> None:
        """[MQTT-3.1.3-5, 3.1.3-6]"""
        self.version = packet.version
        properties = packet.properties
        self._explains = bool(properties.get("request_problem_information", 1))
        self.largest = properties.get("maximum_packet_size", 0)
        if "authentication_method" in properties:
            raise MqttError(Reason.BAD_AUTHENTICATION_METHOD, "there is no extended authentication here")
        self.client = packet.client_id or f"auto-{uuid4().hex}"
        if len(self.client.encode()) > MAX_CLIENT_ID:
            raise MqttError(Reason.CLIENT_IDENTIFIER_NOT_VALID, f"it has more than {MAX_CLIENT_ID} bytes")
        credentials = credentials_in(packet)
        keeper = self.server.doorkeeper
        try:
            identity = keeper.check(keeper.greet(here=is_here(self.address), names=self.peer_names), credentials)
        except BrokerError as error:
            raise unproven(error, credentials) from None
        if identity is not None:
            self._identified(packet, identity)
        elif credentials is not None:
            self._work(self._prove(packet, credentials))

    async def _prove(self, packet: Connect, credentials: Credentials) -> None:
        """A password takes time."""
        try:
            identity = await self.server.doorkeeper.prove(credentials, self.address)
            if self.closed:
                return
            self._identified(packet, identity.valid())
        except MqttError:
            raise
        except BrokerError as error:
            raise unproven(error, credentials) from None

    def _identified(self, packet: Connect, identity: Identity) -> None:
        """It is known who speaks: now the session."""
        self.identity, self.identified = identity, identity.principal
        self.principal = identity.principal
        self.server.admission.identify(self)
        if packet.will is not None:
            self.server.sessions.wills.check(self.identified, packet.will)
        expiry = expiry_of(packet, self.server.options)
        session = self.server.sessions.open_now(self.client, self.identified, packet, expiry)
        if session is not None:
            self.begin(session, packet, present=False)
            self._after_begin()
        else:
            self._work(self._open(packet, expiry))

    async def _open(self, packet: Connect, expiry: int) -> None:
        await self.server.sessions.open(self, self.client, packet, expiry)
        if not self.closed:
            self._after_begin()

    def begin(self, session: Session, packet: Connect, *, present: bool) -> None:
        """The session is there: CONNACK. [MQTT-3.1.4-5, 3.2.0-1]"""
        server, asked = self.server, packet.properties
        options = server.options
        keep_alive = keep_alive_of(packet, options)
        largest = server.packet_limits.max_packet
        told = promises(packet, options, self.client, session.expiry, keep_alive, largest)
        welcome = self.written(Connack(Reason.SUCCESS, present, told))
        if welcome is None:
            raise MqttError(Reason.PACKET_TOO_LARGE, f"the answer to CONNECT is over {self.largest} bytes")
        self.session = session
        self.gate = Gate(self)
        window = min(asked.get("receive_maximum", UNTOLD), options.inflight)
        session.renew(window)
        sender = Sender(
            session,
            server.hub,
            server.encoded,
            self.write,
            version=packet.version,
            largest=self.largest or UNBOUNDED,
            aliases=min(asked.get("topic_alias_maximum", 0), options.topic_alias_maximum),
        )
        session.connect(self, sender, window)
        self.intake = Intake(self)
        self._begun = True
        if packet.version == V5:
            self.quota = Quota(options.receive_maximum)
            self.aliases = AliasesIn(options.topic_alias_maximum)
        server.connecting.end(self)
        if keep_alive:
            self._silence = server.silence(keep_alive * GRACE)
            self._silence.begin(self)
        self.write(welcome)
        session.send_again()

    def _after_begin(self) -> None:
        """CONNACK was sent: begin to read for it, and take what it sent meanwhile."""
        self.session.read(self.server.hub)
        self.session.consume(self.server.hub)
        try:
            packets: Sequence[Packet] = self.decoder.admit()
        except MqttError as fault:
            self._aside.extend(fault.before)
            self.server.loop.call_soon(self._fault, fault)
            return
        self._aside.extend(packets)
        if self._working is None and self._aside:
            aside, self._aside = list(self._aside), deque()
            self._take(aside)

    def _fault(self, fault: MqttError) -> None:
        aside, self._aside = list(self._aside), deque()
        self._take(aside)
        self.fail(fault)

    # The end

    def _goodbye(self, packet: Disconnect) -> None:
        """[MQTT-3.14.4-1, 3.14.4-2, 3.14.4-3]"""
        self.intake.submit()
        expiry = packet.properties.get("session_expiry")
        if expiry is not None:
            if expiry and not self.session.expiry:
                raise forbidden("a session that ends with its connection cannot be kept after all", "MQTT-3.14.2-2")
            self.session.expiry = min(expiry, self.server.options.max_session_expiry // 1000)
        self._end(willing=packet.reason is not Reason.DISCONNECT_WITH_WILL)
        self.transport.close()

    def taken_over(self) -> None:
        """Another connection speaks for this client now. [MQTT-3.1.4-3]"""
        self.fail(MqttError(Reason.SESSION_TAKEN_OVER, "another connection has this client identifier"))

    def silent(self) -> None:
        """Nothing came for one and a half times the keep alive. [MQTT-3.1.2-22]"""
        self.fail(MqttError(Reason.KEEP_ALIVE_TIMEOUT, "nothing came for one and a half times the keep alive"))

    def fail(self, error: BrokerError) -> None:
        """Say why, as far as the version can, and close so that it can be read. [MQTT-4.13.1-1]"""
        if self.closed:
            return
        self.error = error
        farewell = self._farewell(error)
        self._end(willing=False)
        if self.transport.is_closing():
            return
        if farewell:
            self.transport.write(farewell)
        if farewell and self._half_closed():
            # A socket that is closed over unread bytes takes the farewell along: what comes is read and thrown away.
            if self._held:
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

    def _farewell(self, error: BrokerError) -> bytes:
        reason = error.reason if isinstance(error, MqttError) else Reason(error.kind.mqtt)
        properties: Properties = {"reason_string": error.text[:MAX_REASON]} if self.version == V5 else NONE
        if self._begun:
            told = reason if reason in FROM_SERVER[Kind.DISCONNECT] else Reason.UNSPECIFIED_ERROR
            return (self.version == V5 and self.written(Disconnect(told, properties))) or b""
        if reason is Reason.UNSUPPORTED_PROTOCOL_VERSION:
            return encode(Connack(reason), V311)
        if not self.version or (self.version != V5 and reason in _UNSPEAKABLE):
            return b""
        told = reason if reason in FROM_SERVER[Kind.CONNACK] else Reason.UNSPECIFIED_ERROR
        return self.written(Connack(told, False, properties)) or b""

    def _end(self, *, willing: bool) -> None:
        """Let go of everything that it holds; once."""
        if self.closed:
            return
        self.closed = True
        self.server.connecting.end(self)
        if self._silence is not None:
            self._silence.end(self)
        self._aside.clear()
        if self._begun:
            self.gate.lost()
            self.server.sessions.lost(self.session, self, willing=willing)
