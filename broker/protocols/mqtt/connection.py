"""One MQTT connection: its socket, its beginning and its end. What comes in between is `incoming`'s. Floor 4."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.auth.principal import NOBODY, Principal
from broker.core.errors import BrokerError
from broker.engine.base import Receipt, Unit
from broker.net.deadline import Deadlines
from broker.net.door import DoorConnection
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.fitting import Answer, encode_fitting
from broker.protocols.mqtt.codec.packets import V5, Connect, Packet
from broker.protocols.mqtt.farewell import farewell
from broker.protocols.mqtt.flow.aliases import AliasesIn
from broker.protocols.mqtt.flow.keep_alive import GRACE
from broker.protocols.mqtt.flow.quota import Quota
from broker.protocols.mqtt.gate import Gate
from broker.protocols.mqtt.greeting import keep_alive_of
from broker.protocols.mqtt.incoming import Incoming
from broker.protocols.mqtt.intake import Intake
from broker.protocols.mqtt.reception import sender_for, welcome
from broker.protocols.mqtt.session import Session

if TYPE_CHECKING:
    from broker.protocols.mqtt.server import MqttServer

UNTOLD = 65_535
"""What a client may have unanswered whom we cannot tell less, and what it takes so if it says nothing."""


class Connection(DoorConnection):
    """One socket. Before CONNACK it has no session; then `session`, `gate` and `intake` are there."""

    server: "MqttServer"
    client = ""
    error: BrokerError | None = None
    session: Session
    gate: Gate
    intake: Intake

    def __init__(self, server: "MqttServer") -> None:
        super().__init__(server)
        self.identified: Principal = NOBODY
        self.version = 0
        self.largest = 0
        """Packets over this many bytes are not sent; 0: any size."""
        self.decoder = Decoder(server.packet_limits)
        self.quota = Quota(UNTOLD)
        self.aliases = AliasesIn(0)
        self.keep_alive = 0
        """Seconds; 0: it may be silent for ever."""
        self.slow = False
        self.closed = False
        self.begun = False  # CONNACK was sent
        self.incoming = Incoming(self)
        self._explains = True  # the client wants reason strings
        self._silence: Deadlines[Connection] | None = None

    # asyncio.Protocol

    def opened(self) -> None:
        """See DoorConnection."""
        self.server.connecting.begin(self)

    def turned_away(self, error: BrokerError) -> None:
        """See DoorConnection."""
        self.error, self.closed = error, True
        self.transport.close()

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
            self.incoming.take(fault.before)
            self.fail(fault)
            return
        self.incoming.take(packets)
        self.server.admission.received(len(data))

    def eof_received(self) -> bool:
        """The client will send no more: it is gone."""
        return False

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        if self.begun and self.session.sender is not None:
            self.session.sender.full = True
            self.server.slow.full(self)

    def resume_writing(self) -> None:
        """It has drained."""
        self.server.slow.drained(self)
        if self.begun and self.session.sender is not None:
            self.session.sender.resume()
            for tie in self.session.ties():
                tie.top_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self.incoming.last()
        self._end(willing=False)
        super().connection_lost(exc)

    # Of the register

    @property
    def arriving(self) -> int:
        """Bytes of a packet that is not whole yet."""
        return self.decoder.kept

    def abort(self) -> None:
        """Close at once."""
        self._end(willing=False)
        super().abort()

    def dismiss(self, error: BrokerError) -> None:
        """Tell why and close."""
        self.fail(error)

    def too_slow(self, error: BrokerError) -> None:
        """See DoorConnection."""
        self.error = error
        self.abort()

    # Out

    def write(self, data: bytes) -> None:
        """Send, unless it has ended."""
        if not self.closed:
            super().write(data)

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
        super().hold(reading=reading)
        if self._silence is not None and not self.closed:
            (self._silence.begin if reading else self._silence.end)(self)

    # The beginning

    def greet(self, packet: Connect) -> None:
        """CONNECT: how it wants to be spoken to."""
        self.version = packet.version
        self._explains = bool(packet.properties.get("request_problem_information", 1))
        self.largest = packet.properties.get("maximum_packet_size", 0)

    def begin(self, session: Session, packet: Connect, *, present: bool) -> None:
        """The session is there: CONNACK. [MQTT-3.1.4-5, 3.2.0-1]"""
        options = self.server.options
        told = welcome(self, session, packet, present=present)
        self.session = session
        self.gate = Gate(self)
        window = min(packet.properties.get("receive_maximum", UNTOLD), options.inflight)
        session.renew(window)
        session.connect(self, sender_for(self, session, packet), window)
        self.intake = Intake(self)
        self.begun = True
        if packet.version == V5:
            self.quota = Quota(options.receive_maximum)
            self.aliases = AliasesIn(options.topic_alias_maximum)
        self.server.connecting.end(self)
        self.keep_alive = keep_alive_of(packet, options)
        if self.keep_alive:
            self._silence = self.server.silence(self.keep_alive * GRACE)
            self._silence.begin(self)
        self.write(told)
        session.send_again()

    def go_on(self) -> None:
        """CONNACK was sent: begin to read for it, and take what it sent meanwhile."""
        self.session.read(self.server.hub)
        self.session.consume(self.server.hub)
        self.incoming.go_on()

    # The end

    def leave(self, *, willing: bool) -> None:
        """The client said goodbye; `willing`: its will is not to be published."""
        self._end(willing=willing)
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
        said = farewell(error, self.version, begun=self.begun)
        self._end(willing=False)
        self.part(b"" if said is None else self.written(said) or b"")

    def _end(self, *, willing: bool) -> None:
        """Let go of everything that it holds; once."""
        if self.closed:
            return
        self.closed = True
        self.server.connecting.end(self)
        self.server.slow.drained(self)
        if self._silence is not None:
            self._silence.end(self)
        self.incoming.forget()
        self.decoder.forget()
        if self.begun:
            self.gate.lost()
            if self.error is not None:
                self.session.note(self.error, self.server.hub.wall())
            self.server.sessions.lost(self.session, self, willing=willing)
