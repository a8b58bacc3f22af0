"""From CONNECT to CONNACK: who it is, which session it has, and what we promise. Floor 4."""

from typing import TYPE_CHECKING
from uuid import uuid4

from broker.auth.identity import Credentials, Identity
from broker.core.errors import BrokerError
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import Connack, Connect
from broker.protocols.mqtt.greeting import credentials_in, expiry_of, is_bridge, keep_alive_of, promises, unproven
from broker.protocols.mqtt.sender import UNBOUNDED, Sender
from broker.protocols.mqtt.session import Session

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

MAX_CLIENT_ID = 1_024


class Reception:
    """Of one connection. It ends with `Connection.begin`, or with an error that refuses the client."""

    def __init__(self, connection: "Connection", packet: Connect) -> None:
        self._connection = connection
        self._server = connection.server
        self._packet = packet
        self._expiry = expiry_of(packet, self._server.options)

    def receive(self) -> None:
        """Raises what refuses the client. [MQTT-3.1.3-5, 3.1.3-6]"""
        connection, packet = self._connection, self._packet
        connection.greet(packet)
        if "authentication_method" in packet.properties:
            raise MqttError(Reason.BAD_AUTHENTICATION_METHOD, "there is no extended authentication here")
        connection.client = packet.client_id or f"auto-{uuid4().hex}"
        if len(connection.client.encode()) > MAX_CLIENT_ID:
            raise MqttError(Reason.CLIENT_IDENTIFIER_NOT_VALID, f"it has more than {MAX_CLIENT_ID} bytes")
        credentials = credentials_in(packet)
        try:
            identity = connection.recognize(credentials)
        except BrokerError as error:
            raise unproven(error, credentials) from None
        if identity is not None:
            self._identified(identity)
        elif credentials is not None:
            connection.incoming.work(self._prove(credentials))

    async def _prove(self, credentials: Credentials) -> None:
        """A password takes time."""
        connection = self._connection
        try:
            identity = await self._server.doorkeeper.prove(credentials, connection.address)
            if connection.closed:
                return
            self._identified(identity.valid())
        except MqttError:
            raise
        except BrokerError as error:
            raise unproven(error, credentials) from None

    def _identified(self, identity: Identity) -> None:
        """It is known who speaks: now the session."""
        connection, packet, sessions = self._connection, self._packet, self._server.sessions
        connection.identified = identity.principal.as_client(connection.client)
        connection.speaks_for(identity)
        if packet.will is not None:
            sessions.wills.check(connection.identified, packet.will)
        session = sessions.open_now(connection.client, connection.identified, packet, self._expiry)
        if session is not None:
            connection.begin(session, packet, present=False)
            connection.go_on()
        else:
            connection.incoming.work(self._open())

    async def _open(self) -> None:
        connection = self._connection
        await self._server.sessions.open(connection, connection.client, self._packet, self._expiry)
        if not connection.closed:
            connection.go_on()


def welcome(connection: "Connection", session: Session, packet: Connect, *, present: bool) -> bytes:
    """The CONNACK that lets it in. Raises PACKET_TOO_LARGE for a client that does not take one of its size."""
    server = connection.server
    keep_alive = keep_alive_of(packet, server.options)
    largest = server.packet_limits.max_packet
    told = promises(
        packet, server.options, connection.client, session.expiry, keep_alive, largest, server.hub.engine.epoch
    )
    written = connection.written(Connack(Reason.SUCCESS, present, told))
    if written is None:
        raise MqttError(Reason.PACKET_TOO_LARGE, f"the answer to CONNECT is over {connection.largest} bytes")
    return written


def sender_for(connection: "Connection", session: Session, packet: Connect) -> Sender:
    """What writes messages to it, as it wants them."""
    server = connection.server
    return Sender(
        session,
        server.hub,
        server.encoded,
        connection.write,
        version=packet.version,
        largest=connection.largest or UNBOUNDED,
        aliases=min(packet.properties.get("topic_alias_maximum", 0), server.options.topic_alias_maximum),
        identified=is_bridge(packet),
    )
