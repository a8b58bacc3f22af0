"""What comes in on one connection: packet by packet, in order, each to the part of the door that takes it. Floor 4."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from broker.core.errors import BrokerError, Code
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError, forbidden
from broker.protocols.mqtt.codec.packets import (
    V311,
    Ack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Subscribe,
    Unsubscribe,
)
from broker.protocols.mqtt.reception import Reception

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

logger = logging.getLogger(__name__)
S = TypeVar("S", Subscribe, Unsubscribe)
_PONG = encode(Pingresp(), V311)
MAX_ASIDE = 64 << 10
"""Bytes put aside of a client that is slowed after which it is not read."""
_URGENT = (Ack, Pingreq)
"""What goes on while a client is slowed."""


class Incoming:
    """See the module. Behind a packet that takes time, the rest waits; while the gate is shut, all but what a client
    acknowledges."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._aside: deque[Packet] = deque()
        self._size = 0  # of what is put aside at the gate
        self._working: asyncio.Task[None] | None = None

    def take(self, packets: Sequence[Packet]) -> None:
        """What one read brought."""
        if self._working is not None:
            self._aside.extend(packets)
            return
        connection = self._connection
        if connection.begun and connection.gate.shut:
            packets = self._put_aside(packets)
        try:
            for at, packet in enumerate(packets):
                kind = type(packet)
                if kind is Publish:
                    connection.intake.publish(packet)  # type: ignore[arg-type]
                elif kind is Ack:
                    self._acknowledged(packet)  # type: ignore[arg-type]
                else:
                    self._handle(packet)
                if connection.closed:
                    return
                if self._working is not None:
                    self._aside.extend(packets[at + 1 :])
                    break
            if connection.begun:
                connection.intake.submit()
        except BrokerError as error:
            self._give_up(error)

    def _put_aside(self, packets: Sequence[Packet]) -> list[Packet]:
        """What waits at the gate, in order; returns the rest. Behind a DISCONNECT nothing is to be read, least of all
        the end of the connection."""
        connection = self._connection
        for packet in packets:
            if not isinstance(packet, _URGENT):
                self._aside.append(packet)
                self._size += len(encode(packet, connection.version))
        if self._size > MAX_ASIDE or (self._aside and isinstance(self._aside[-1], Disconnect)):
            connection.gate.close("aside")
        return [packet for packet in packets if isinstance(packet, _URGENT)]

    def reopen(self) -> None:
        """The gate is open: take what was put aside, as if it came now; that may shut it anew."""
        if self._working is None:
            self._take_aside()

    def last(self) -> None:
        """The connection is lost. Who took leave behind what was put aside, which a WebSocket's close can overtake, has
        left, and all of it was said."""
        if self._aside and isinstance(self._aside[-1], Disconnect) and self._working is None:
            self._connection.gate.shut = False
            self._take_aside()

    def go_on(self) -> None:
        """CONNACK was sent: take what it sent meanwhile."""
        connection = self._connection
        try:
            packets: Sequence[Packet] = connection.decoder.admit()
        except MqttError as fault:
            self._aside.extend(fault.before)
            connection.server.loop.call_soon(self._fault, fault)
            return
        self._aside.extend(packets)
        if self._working is None and self._aside:
            self._take_aside()

    def _fault(self, fault: MqttError) -> None:
        self._take_aside()
        self._connection.fail(fault)

    def _take_aside(self) -> None:
        aside, self._aside, self._size = list(self._aside), deque(), 0
        self.take(aside)

    def forget(self) -> None:
        """The connection has ended: what waits is not taken any more."""
        self._aside.clear()

    def _give_up(self, error: BrokerError) -> None:
        """What came before the fault is still done."""
        connection = self._connection
        if connection.begun and not connection.closed:
            try:
                connection.intake.submit()
            except BrokerError as failure:
                error = failure
        connection.fail(error)

    # Packets

    def _acknowledged(self, ack: Ack) -> None:
        connection = self._connection
        if ack.kind is Kind.PUBREL:
            connection.intake.release(ack)
        elif connection.session.sender is not None:
            connection.session.sender.answered(ack)

    def _handle(self, packet: Packet) -> None:
        """All but PUBLISH and its answers."""
        connection = self._connection
        subscribing = connection.server.subscribing
        if isinstance(packet, Pingreq):
            connection.write(_PONG)
        elif isinstance(packet, Subscribe):
            self._change(packet, subscribing.subscribe_now, subscribing.subscribe)
        elif isinstance(packet, Unsubscribe):
            self._change(packet, subscribing.unsubscribe_now, subscribing.unsubscribe)
        elif isinstance(packet, Connect):
            Reception(connection, packet).receive()
        elif isinstance(packet, Disconnect):
            self._goodbye(packet)
        else:
            raise MqttError(Reason.BAD_AUTHENTICATION_METHOD, "there is no extended authentication here")

    def _change(
        self,
        packet: S,
        now: Callable[["Connection", S], None],
        later: Callable[["Connection", S], Coroutine[Any, Any, None]],
    ) -> None:
        """SUBSCRIBE or UNSUBSCRIBE: at once, or when it is on disk."""
        connection = self._connection
        connection.intake.submit()
        if connection.server.subscribing.is_quick(connection.session, packet):
            now(connection, packet)
        else:
            self.work(later(connection, packet))

    def _goodbye(self, packet: Disconnect) -> None:
        """[MQTT-3.14.4-1, 3.14.4-2, 3.14.4-3]"""
        connection = self._connection
        connection.intake.submit()
        expiry = packet.properties.get("session_expiry")
        if expiry is not None:
            if expiry and not connection.session.expiry:
                raise forbidden("a session that ends with its connection cannot be kept after all", "MQTT-3.14.2-2")
            connection.session.expiry = min(expiry, connection.server.options.max_session_expiry // 1000)
        connection.leave(willing=packet.reason is not Reason.DISCONNECT_WITH_WILL)

    # What takes time

    def work(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that has to wait for the disk; packets that come meanwhile are taken after it."""
        self._working = self._connection.run(self._worked(work))
        if self._connection.begun:
            self._connection.gate.close("work")

    async def _worked(self, work: Coroutine[Any, Any, None]) -> None:
        connection = self._connection
        try:
            await work
        except BrokerError as error:
            connection.fail(error)
        except Exception:
            logger.exception("a packet could not be handled", extra={"client": connection.client})
            connection.fail(BrokerError(Code.INTERNAL, "see the broker's log"))
        if self._working is not asyncio.current_task():  # it went on to more of it
            return
        self._working = None
        if connection.begun:
            connection.gate.open("work")
        if not connection.closed:
            self._take_aside()
