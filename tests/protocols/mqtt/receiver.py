"""A client of the MQTT door that comes, goes and answers in any order, for tests by random schedules."""

import asyncio
from collections import Counter
from random import Random

import pytest

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import Ack, Packet, Publish
from tests.protocols.mqtt.door import Client, Door

QUIET = 0.02
"""Seconds in which what is on its way comes."""
PROOF = 40
"""Schedules that `make proof` tries of each kind."""


def seeds(few: int) -> list[object]:
    """Those of every run, and the others."""
    return [*range(few), *(pytest.param(seed, marks=pytest.mark.proof) for seed in range(few, PROOF))]


class Receiver:
    """The client as §4.3 has it: what it has of QoS 2 and not released outlives its connections. `refusals`: what it
    says now and then instead of taking a message of QoS 1. `alone`: no others share what it reads, so that the messages
    of a topic and QoS come in their order [MQTT-4.6.0-5]."""

    def __init__(self, door: Door, chance: Random, name: str, text: str, qos: int = 2, *, alone: bool = False) -> None:
        self._door = door
        self._chance = chance
        self.name = name
        self._filter = (text, qos)
        self._alone = alone
        self._heard: set[int] = set()
        self._latest: dict[tuple[str, int], int] = {}
        self.refusals: tuple[Reason, ...] = ()
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
        self.client = await self._door.connect(self.name, clean=False, expiry=3_600, receive_maximum=self.window)

    async def begin(self) -> None:
        await self.connect()
        await self.subscribe()

    async def subscribe(self) -> None:
        """Also to what it is subscribed to."""
        if self.client is not None:
            self.asked.update(self.retained.values())
            text, qos = self._filter
            await self.client.subscribe(text, qos=qos)

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
                assert packet.packet_id not in self.open, "an identifier in flight is not used again"
                self.open.add(packet.packet_id)
                assert len(self.open) <= self.window
                if packet.retain:
                    self.told.add(int(packet.payload))
                elif self._alone:
                    self._follow(packet)
        self.inbox += came

    def _follow(self, packet: Publish) -> None:
        """What comes for the first time is later than all of its topic and QoS that came before."""
        number, kind = int(packet.payload), (packet.topic, packet.qos)
        if number not in self._heard:
            assert number > self._latest.get(kind, -1), kind
            self._heard.add(number)
            self._latest[kind] = number

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
        if packet.qos == 1 and self.refusals and self._chance.random() < 0.1:
            self.refused.add(number)
            self.open.discard(packet_id)
            client.write(Ack(Kind.PUBACK, (packet_id,), self._chance.choice(self.refusals)))
        elif packet.qos == 1:
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
