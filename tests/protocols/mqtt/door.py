"""The MQTT door on a real engine and real sockets with clocks that a test moves, and its clients."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from broker.auth.doorkeeper import Doorkeeper
from broker.auth.principal import LOCAL, Principal
from broker.hub import Hub
from broker.limits import Limits
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import (
    NONE,
    V5,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Publish,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.protocols.mqtt.connection import Connection
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.server import MqttServer
from tests.engine.world import World, open_world
from tests.protocols.native.client import make

PATIENCE = 5.0
SHORT = 0.05
"""Seconds in which what must not come would have."""

P = TypeVar("P", bound=Packet)


class Client:
    """One connection. `heard` are the packets that nobody has asked for yet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self._reader = reader
        self._writer = writer
        self.version = version
        self._decoder = Decoder(version=version, from_client=False)
        self.heard: list[Packet] = []
        self.ended = False
        self.connack = Connack()

    def write(self, *packets: Packet) -> None:
        self._writer.write(b"".join(encode(packet, self.version) for packet in packets))

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def _more(self) -> None:
        data = await self._reader.read(1 << 16)
        self.ended = not data
        for packet in self._decoder.feed(data):
            if isinstance(packet, Ack) and len(packet.packet_ids) > 1:
                self.heard += [packet._replace(packet_ids=(packet_id,)) for packet_id in packet.packet_ids]
            else:
                self.heard.append(packet)

    async def hear(self, kind: type[P], within: float = PATIENCE) -> P:
        """The next packet of this kind; others stay."""
        async with asyncio.timeout(within):
            while True:
                for i, packet in enumerate(self.heard):
                    if isinstance(packet, kind):
                        del self.heard[i]
                        return packet
                if self.ended:
                    raise AssertionError(f"the connection ended without {kind.__name__}; there is {self.heard}")
                await self._more()

    async def nothing(self, kind: type[Packet] = Publish, within: float = SHORT) -> None:
        """No packet of this kind comes."""
        try:
            packet = await self.hear(kind, within)
        except TimeoutError:
            return
        raise AssertionError(f"came: {packet}")

    async def closed(self) -> None:
        """The server closes."""
        async with asyncio.timeout(PATIENCE):
            while not self.ended:
                try:
                    await self._more()
                except ConnectionError:
                    self.ended = True

    async def ping(self) -> None:
        """All that was sent before has been handled."""
        self.write(Pingreq())
        await self.hear(Pingresp)

    # The usual exchanges

    async def greet(
        self,
        client_id: str = "",
        *,
        clean: bool = True,
        expiry: int | None = None,
        keep_alive: int = 0,
        will: Will | None = None,
        username: str | None = None,
        password: bytes | None = None,
        present: bool | None = None,
        **properties: Any,
    ) -> "Client":
        """CONNECT, and be let in; the answer is `connack`."""
        given: Properties = properties  # type: ignore[assignment]
        if expiry is not None:
            given["session_expiry"] = expiry
        self.write(Connect(self.version, client_id, clean, keep_alive, username, password, will, given))
        self.connack = await self.hear(Connack)
        assert self.connack.reason is Reason.SUCCESS, self.connack
        if present is not None:
            assert self.connack.session_present is present
        return self

    async def subscribe(self, *filters: str, qos: int = 1, packet_id: int = 1, **options: Any) -> Suback:
        ids = options.pop("identifier", 0)
        properties: Properties = {"subscription_ids": [ids]} if ids else NONE
        self.write(Subscribe(packet_id, tuple(Request(text, qos, **options) for text in filters), properties))
        return await self.hear(Suback)

    async def unsubscribe(self, *filters: str) -> Unsuback:
        self.write(Unsubscribe(9, filters))
        return await self.hear(Unsuback)

    async def publish(
        self,
        topic: str,
        payload: str = "",
        qos: int = 1,
        packet_id: int = 7,
        *,
        retain: bool = False,
        dup: bool = False,
        properties: Properties = NONE,
    ) -> Reason:
        """What the last answer says."""
        self.write(Publish(topic, payload.encode(), qos, retain, dup, packet_id if qos else 0, properties))
        if not qos:
            return Reason.SUCCESS
        ack = await self.hear(Ack)
        assert ack.packet_ids == (packet_id,)
        if qos == 1:
            assert ack.kind is Kind.PUBACK
            return ack.reason
        assert ack.kind is Kind.PUBREC
        if ack.reason >= Reason.UNSPECIFIED_ERROR:
            return ack.reason
        self.write(Ack(Kind.PUBREL, (packet_id,)))
        done = await self.hear(Ack)
        assert (done.kind, done.packet_ids) == (Kind.PUBCOMP, (packet_id,))
        return ack.reason

    async def take(self) -> Publish:
        """The next message, answered for good."""
        packet = await self.hear(Publish)
        await self.answer(packet)
        return packet

    async def answer(self, packet: Publish) -> None:
        if packet.qos == 1:
            self.write(Ack(Kind.PUBACK, (packet.packet_id,)))
        elif packet.qos == 2:
            self.write(Ack(Kind.PUBREC, (packet.packet_id,)))
            release = await self.hear(Ack)
            assert (release.kind, release.packet_ids) == (Kind.PUBREL, (packet.packet_id,))
            self.write(Ack(Kind.PUBCOMP, (packet.packet_id,)))

    async def bodies(self, count: int) -> list[str]:
        return [(await self.take()).payload.decode() for _ in range(count)]

    async def leave(self, reason: Reason = Reason.SUCCESS, properties: Properties = NONE) -> None:
        """DISCONNECT."""
        self.write(Disconnect(reason, properties))
        await self.closed()

    def eof(self) -> None:
        """Nothing more comes."""
        self._writer.write_eof()

    async def lost(self) -> None:
        """The connection breaks."""
        self._writer.transport.abort()
        await asyncio.sleep(0)


async def dial(port: int, version: int = V5) -> Client:
    """A socket, and nothing said yet."""
    return Client(*await asyncio.open_connection("127.0.0.1", port), version)


class Door:
    """One door; `crash` is kill -9 and a new start on what was on disk."""

    def __init__(self, world: World, options: MqttOptions, doorkeeper: Doorkeeper | None, limits: Limits) -> None:
        self.world = world
        self.options = options
        self.doorkeeper = doorkeeper
        self.limits = limits
        self.clients: list[Client] = []
        self.principal_of: Callable[[str], Principal] = lambda _: LOCAL

    async def start(self) -> None:
        self.hub = Hub(self.world.engine, self.limits, self.world.clock.wall)
        await self.hub.retained.load()
        self.server = MqttServer(
            self.hub, self.options, doorkeeper=self.doorkeeper, principal_of=lambda name: self.principal_of(name)
        )
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        await self.server.start([sock])

    async def stop(self) -> None:
        await self.server.stop()
        for client in self.clients:
            client._writer.transport.abort()
        self.clients.clear()

    async def crash(self) -> None:
        """What was not committed is gone, and so are all connections."""
        copy = self.world.copy()
        self.server.sessions.stopping = True
        await self.stop()
        await self.world.revive(copy)
        await self.start()

    async def advance(self, seconds: float) -> None:
        """Time passes, and what it brings happens."""
        self.world.clock.move(seconds)
        self.server.tick()
        await self.server.sessions.stop()
        await self.world.advance(0)

    async def dial(self, version: int = V5) -> Client:
        """A socket, and nothing said yet."""
        client = await dial(self.port, version)
        self.clients.append(client)
        return client

    def comes(self, client_id: str, *packets: Packet) -> Connection:
        """One read of the socket of who has (or, with "", has not said) this name, before anything else happens."""
        (connection,) = (one for one in self.server.connections if one.client == client_id)
        connection.data_received(b"".join(encode(packet, V5) for packet in packets))
        return connection

    async def connect(self, client_id: str = "", version: int = V5, **options: Any) -> Client:
        """A client that was let in; `options` as of `Client.greet`."""
        return await (await self.dial(version)).greet(client_id, **options)


@asynccontextmanager
async def open_door(
    folder: Path,
    options: MqttOptions | None = None,
    doorkeeper: Doorkeeper | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Door]:
    async with open_world(folder / "data", make) as world:
        door = Door(world, options or MqttOptions(), doorkeeper, limits or Limits())
        await door.start()
        try:
            yield door
        finally:
            await door.stop()
