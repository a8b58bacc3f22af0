"""Another broker, in as few words as a bridge needs, which a test makes behave badly."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import (
    NONE,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

Answer = Callable[[Publish], Reason | None]
"""What PUBACK says; None for nothing. It may raise ConnectionError: then it hangs up."""


def taken(packet: Publish) -> Reason | None:
    """Everything is."""
    return Reason.SUCCESS


class Upstream:
    """What came on all connections, in order; `acks` are the identifiers that the bridge acknowledged. A `deaf` one
    does not answer SUBSCRIBE."""

    def __init__(self) -> None:
        self.answer: Answer = taken
        self.refuses: Reason | None = None
        self.properties: Properties = NONE
        self.present = False
        self.deaf = False
        self.connects: list[Connect] = []
        self.published: list[Publish] = []
        self.subscribed: list[str] = []
        self.handling: list[int] = []  # of retained messages, as each of these wants it
        self.ungranted = ""
        self.unsubscribed: list[str] = []
        self.acks: list[int] = []
        self.port = 0
        self.in_flight = self.most_in_flight = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._version = 5

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    def hang_up(self) -> None:
        """All connections end."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def reset_after(self, *packets: Packet) -> None:
        """To whom is connected; then the connection is reset, at once."""
        writer = self._writers.pop()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._write(writer, packets)
        writer.transport.abort()

    def send(self, *packets: Packet) -> None:
        """To whom is connected."""
        self._write(self._writers[-1], packets)

    def _write(self, writer: asyncio.StreamWriter, packets: Sequence[Packet]) -> None:
        writer.write(b"".join(encode(packet, self._version) for packet in packets))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        decoder = Decoder()
        self.in_flight = 0
        try:
            while data := await reader.read(1 << 16):
                packets = decoder.feed(data)
                while packets:
                    for packet in packets:
                        writer.write(b"".join(self._answers(packet)))
                    packets = decoder.admit() if isinstance(packets[0], Connect) else []
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    def _answers(self, packet: Packet) -> list[bytes]:
        answer: Packet | None = None
        if isinstance(packet, Connect):
            self.connects.append(packet)
            self._version = packet.version
            answer = Connack(self.refuses or Reason.SUCCESS, self.present and not self.refuses, self.properties)
        elif isinstance(packet, Subscribe):
            if self.deaf:
                return []
            self.subscribed += [request.filter for request in packet.requests]
            self.handling += [request.retain_handling for request in packet.requests]
            denied = {self.ungranted: Reason.NOT_AUTHORIZED}
            reasons = [denied.get(request.filter, Reason(request.qos)) for request in packet.requests]
            answer = Suback(packet.packet_id, tuple(reasons))
        elif isinstance(packet, Unsubscribe):
            self.unsubscribed += packet.filters
            answer = Unsuback(packet.packet_id, tuple(Reason.SUCCESS for _ in packet.filters))
        elif isinstance(packet, Pingreq):
            answer = Pingresp()
        elif isinstance(packet, Publish):
            self.published.append(packet)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            reason = self.answer(packet)
            if reason is not None and packet.qos:
                self.in_flight -= 1
                answer = Ack(Kind.PUBACK, (packet.packet_id,), reason)
        elif isinstance(packet, Ack):
            self.acks += packet.packet_ids
        elif isinstance(packet, Disconnect):
            raise ConnectionError
        return [] if answer is None else [encode(answer, self._version)]

    @property
    def bodies(self) -> list[bytes]:
        return [packet.payload for packet in self.published]


@asynccontextmanager
async def open_upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()
