"""Clients at the MQTT door of a running daemon, each test's with names and topics of its own."""

import asyncio

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.packets import Ack, Publish
from tests.protocols.mqtt.door import Client


class Guests:
    """`at` makes a topic or filter of the test's own; `a` and `b` are who a scenario mostly speaks of."""

    def __init__(self, port: int, version: int, name: str) -> None:
        self.port = port
        self.version = version
        self.name = name
        self._clients: list[Client] = []

    def at(self, topic: str) -> str:
        return f"{self.name}/{topic}"

    async def dial(self, version: int = 0) -> Client:
        """A socket, and nothing said yet."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port), version or self.version)
        self._clients.append(client)
        return client

    async def connect(self, who: str, **options: object) -> Client:
        """A client that was let in; `options` as of `Client.greet`."""
        return await (await self.dial()).greet(who and f"{self.name}-{who}", **options)  # type: ignore[arg-type]

    async def forget(self, *topics: str) -> None:
        """Nothing is retained there any more."""
        client = await self.connect("sweeper")
        for topic in topics:
            await client.publish(topic, "", 1, retain=True)
        await client.leave()

    async def close(self) -> None:
        for client in self._clients:
            await client.lost()


async def three(client: Client, *topics: str, retain: bool = False, **properties: object) -> None:
    """Messages of QoS 0, 1 and 2, which say so; to one topic, or to one each."""
    for qos in range(3):
        topic = topics[qos % len(topics)]
        await client.publish(topic, f"qos {qos}", qos, retain=retain, properties=properties)  # type: ignore[arg-type]


async def exactly(client: Client, count: int) -> list[Publish]:
    """So many messages, answered for good, and no more."""
    found = [await client.take() for _ in range(count)]
    await client.nothing(within=0.1)
    return found


def bodies(messages: list[Publish]) -> list[str]:
    return [message.payload.decode() for message in messages]


def puback(packet: Publish) -> Ack:
    return Ack(Kind.PUBACK, (packet.packet_id,))
