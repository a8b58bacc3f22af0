"""The MQTT door reached by WebSocket: the HTTP door beside it, and clients that frame what they say, as they like."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from broker.auth.doorkeeper import Doorkeeper
from broker.limits import Limits
from broker.protocols.http.frames import BINARY, CLOSE
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.server import HttpServer
from broker.protocols.http.tunnel import TunnelRoutes
from broker.protocols.mqtt.codec.packets import V5
from broker.protocols.mqtt.options import MqttOptions
from tests.engine.world import open_world
from tests.protocols.http.frames import masked
from tests.protocols.mqtt.door import PATIENCE, Client, Door
from tests.protocols.native.client import make

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The key of the RFC's own example, and its answer (§1.3)."""


class Ends:
    """Reader and writer of a `Client`; each write is a frame, and `cut` in pieces of so many bytes if not 0."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.cut = 0
        self.answers = True
        self.frames: list[tuple[int, bytes]] = []  # that are no binary messages
        self.transport = writer.transport

    def write(self, data: bytes) -> None:
        framed = masked(data)
        for at in range(0, len(framed), self.cut or len(framed)):
            self.writer.write(framed[at : at + (self.cut or len(framed))])

    async def read(self, _: int) -> bytes:
        """Of the next binary message; nothing when there is no more."""
        try:
            while True:
                first, size = await self._reader.readexactly(2)
                if size > 125:
                    size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
                payload = await self._reader.readexactly(size)
                if first == 0x80 | BINARY:
                    assert payload, "a message of nothing"
                    return payload
                self.frames.append((first & 0x0F, payload))
                if first & 0x0F == CLOSE and self.answers:
                    self.writer.write(masked(payload, CLOSE))
        except asyncio.IncompleteReadError:
            return b""

    def close_code(self) -> int:
        """Of the server's close."""
        (payload,) = [payload for opcode, payload in self.frames if opcode == CLOSE]
        return int.from_bytes(payload[:2], "big")


class WebDoor(Door):
    """Its clients come by WebSocket."""

    writers: list[asyncio.StreamWriter]

    async def start(self) -> None:
        await super().start()
        self.writers = []
        tunnel = TunnelRoutes("/mqtt", "MQTT", ("mqtt", "mqttv3.1"), self.server.connection)
        self.http = HttpServer(
            self.hub,
            HttpOptions(port=0, origins=["https://app.example.com"]),
            admission=self.server.admission,
            doorkeeper=self.doorkeeper,
            routes=tunnel.routes(),
        )
        (self.address,) = await self.http.start()

    async def stop(self) -> None:
        await super().stop()
        for writer in self.writers:
            writer.transport.abort()
        await self.http.stop(0)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A socket at the HTTP door, and nothing said yet."""
        reader, writer = await asyncio.open_connection(*self.address.split(":"))
        self.writers.append(writer)
        return reader, writer

    async def ask(self, *head: str, protocol: str = "mqtt") -> tuple[Ends, str]:
        """Ask for a WebSocket; the head of the answer."""
        reader, writer = await self.open()
        usual = {
            "Host": self.address,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Protocol": protocol,
        }
        given = {name for name, _, _ in (line.partition(":") for line in head)}
        lines = [f"{name}: {value}" for name, value in usual.items() if value and name not in given]
        lines = ["GET /mqtt HTTP/1.1", *lines, *head]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(PATIENCE):
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            if not answer.startswith("HTTP/1.1 101"):
                size = next(int(line.partition(":")[2]) for line in answer.split("\r\n") if "Content-Length" in line)
                answer += (await reader.readexactly(size)).decode()
        return Ends(reader, writer), answer

    async def dial(self, version: int = V5, head: tuple[str, ...] = ()) -> Client:
        ends, answer = await self.ask(*head)
        assert f"Sec-WebSocket-Accept: {ACCEPT}" in answer
        client = Client(cast(asyncio.StreamReader, ends), cast(asyncio.StreamWriter, ends), version)
        self.clients.append(client)
        return client


@asynccontextmanager
async def open_web_door(
    folder: Path, options: MqttOptions | None = None, limits: Limits | None = None, doorkeeper: Doorkeeper | None = None
) -> AsyncIterator[WebDoor]:
    async with open_world(folder / "data", make) as world:
        door = WebDoor(world, options or MqttOptions(), doorkeeper, limits or Limits())
        await door.start()
        try:
            yield door
        finally:
            await door.stop()


def ends_of(client: Client) -> Ends:
    """Its socket."""
    return cast(Ends, client._writer)
