"""A kept session by random schedules: its client comes, goes, is taken over and answers in any order, and the broker
crashes. What a receiver may expect holds all the same: QoS 1 at least once, QoS 2 once, never more in flight than it
takes, and nothing is stuck in the end. Retained messages come with each subscription, beside all else."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import Ack, Packet, Publish
from tests.protocols.mqtt.door import PATIENCE, Client, Door, open_door

STEPS = 120
NAME, QUEUE = "kept", "mqtt/kept"
QUIET = 0.02
"""Seconds in which what is on its way comes."""


class Receiver:
    """The client as §4.3 has it: what it has of QoS 2 and not released outlives its connections."""

    def __init__(self, door: Door, chance: Random) -> None:
        self._door = door
        self._chance = chance
        self.client: Client | None = None
        self.window = 65_535
        self.open: set[int] = set()
        """Identifiers in flight on this connection."""
        self.unreleased: set[int] = set()
        self.seen: Counter[int] = Counter()
        self.refused: set[int] = set()
        self.retained: dict[str, int] = {}
        """Topic to the number of the message that the broker retains."""
        self.told: set[int] = set()
        """Those that came as retained."""
        self.asked: Counter[int] = Counter()
        """How often a message was retained when the client subscribed."""
        self.inbox: list[Packet] = []

    async def connect(self) -> None:
        """Also in place of the one that is there."""
        self.window = self._chance.choice((1, 2, 5, 65_535))
        self.open.clear()
        self.inbox.clear()
        self.client = await self._door.connect(NAME, clean=False, expiry=3_600, receive_maximum=self.window)

    async def begin(self) -> None:
        await self.connect()
        await self.subscribe()

    async def subscribe(self) -> None:
        """Also to what it is subscribed to."""
        if self.client is not None:
            self.asked.update(self.retained.values())
            await self.client.subscribe("t/#", qos=2)

    async def lose(self) -> None:
        if self.client is not None:
            await self.client.lost()
            self.client = None

    async def leave(self) -> None:
        if self.client is not None:
            await self.client.leave()
            self.client = None

    async def hear(self) -> None:
        """Take in what has come."""
        client = self.client
        if client is None:
            return
        try:
            async with asyncio.timeout(QUIET):
                while not client.ended:
                    await client._more()
        except (TimeoutError, ConnectionError):
            pass
        came, client.heard = client.heard, []
        for packet in came:
            if isinstance(packet, Publish) and packet.qos:
                self.open.add(packet.packet_id)
                assert len(self.open) <= self.window
                if packet.retain:
                    self.told.add(int(packet.payload))
        self.inbox += came

    async def answer(self) -> None:
        """One packet, any of them; identifiers of QoS 2 go their way step by step."""
        if self.client is None or not self.inbox:
            return
        packet = self.inbox.pop(self._chance.randrange(len(self.inbox)))
        if isinstance(packet, Ack):
            assert packet.kind is Kind.PUBREL
            (packet_id,) = packet.packet_ids
            self.unreleased.discard(packet_id)
            self.open.discard(packet_id)
            self.client.write(Ack(Kind.PUBCOMP, packet.packet_ids))
        elif isinstance(packet, Publish):
            self._receive(self.client, packet)

    def _receive(self, client: Client, packet: Publish) -> None:
        number, packet_id = int(packet.payload), packet.packet_id
        if packet.qos == 1:
            self.seen[number] += 1
            self.open.discard(packet_id)
            client.write(Ack(Kind.PUBACK, (packet_id,)))
        elif packet_id in self.unreleased:
            client.write(Ack(Kind.PUBREC, (packet_id,)))
        elif self._chance.random() < 0.05:
            self.refused.add(number)
            self.open.discard(packet_id)
            client.write(Ack(Kind.PUBREC, (packet_id,), Reason.QUOTA_EXCEEDED))
        else:
            self.seen[number] += 1
            self.unreleased.add(packet_id)
            client.write(Ack(Kind.PUBREC, (packet_id,)))


def outstanding(door: Door) -> int:
    info = door.hub.engine.subscription(QUEUE)
    return info.ready + info.leased


@pytest.mark.parametrize("seed", range(6))
async def test_a_kept_session_keeps_what_it_promises(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    published: dict[int, int] = {}
    async with open_door(tmp_path) as door:
        receiver = Receiver(door, chance)
        await receiver.begin()

        async def publish() -> None:
            publisher = await door.connect()
            for _ in range(chance.randint(1, 8)):
                number, qos, retain = len(published), chance.choice((1, 2)), chance.random() < 0.2
                topic = f"t/{number % 3}"
                assert await publisher.publish(topic, str(number), qos, retain=retain) is Reason.SUCCESS
                published[number] = qos
                if retain:
                    receiver.retained[topic] = number
            await publisher.leave()

        async def crash() -> None:
            receiver.client = None
            await door.crash()

        steps: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, publish),
            (8, receiver.hear),
            (12, receiver.answer),
            (2, receiver.subscribe),
            (3, receiver.connect),
            (2, receiver.lose),
            (1, receiver.leave),
            (1, crash),
        ]
        weights, deeds = zip(*steps, strict=True)
        for deed in chance.choices(deeds, weights, k=STEPS):
            await deed()
        await receiver.connect()
        receiver.told.clear()
        await receiver.subscribe()
        async with asyncio.timeout(4 * PATIENCE):
            while outstanding(door) or receiver.inbox or not receiver.told >= set(receiver.retained.values()):
                await receiver.hear()
                while receiver.inbox:
                    await receiver.answer()
        for number, qos in published.items():
            if number not in receiver.refused:
                assert receiver.seen[number] >= 1, (number, qos)
            if qos == 2:
                assert receiver.seen[number] <= 1 + receiver.asked[number], (number, qos)
        assert set(receiver.seen) <= set(published)
