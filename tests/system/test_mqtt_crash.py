"""kill -9 while MQTT clients publish and receive with QoS 1 and 2, one of them away: nothing that was acknowledged is
lost, and with QoS 2 every message comes once. Clients do as the standard says: they come back, go on with their
sessions, and send again what was not answered.
"""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import V5, Ack, Connack, Connect, Packet, Publish, Request, Suback, Subscribe
from tests.system.served import WITHIN, Served
from tests.system.waiting import until

pytestmark = pytest.mark.system
WINDOW = 500
"""Messages of a publisher without an answer, and of a reader."""


class Peer:
    """A client with a session that is kept, over many connections."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.present = False

    @asynccontextmanager
    async def connected(self, address: str) -> AsyncIterator[None]:
        host, _, port = address.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        self.decoder = Decoder(version=V5, from_client=False)
        try:
            properties = {"session_expiry": 3_600, "receive_maximum": WINDOW}
            self.send(Connect(V5, self.client_id, clean_start=False, properties=properties))  # type: ignore[arg-type]
            first, *rest = await self.packets()
            assert isinstance(first, Connack), first
            self.present = first.session_present
            for packet in rest:
                self.on(packet)
            yield
        finally:
            self.writer.transport.abort()

    def send(self, *packets: Packet) -> None:
        if packets:
            self.writer.write(b"".join(encode(packet, V5) for packet in packets))

    async def packets(self) -> list[Packet]:
        while True:
            data = await self.reader.read(1 << 18)
            if not data:
                raise ConnectionError
            if packets := self.decoder.feed(data):
                return packets

    async def serve(self) -> None:
        """Until the connection is lost."""
        while True:
            for packet in await self.packets():
                self.on(packet)

    def on(self, packet: Packet) -> None:
        raise NotImplementedError


class Publisher(Peer):
    """Publishes numbers until all are acknowledged for good."""

    def __init__(self, qos: int, count: int) -> None:
        super().__init__(f"publisher-{qos}")
        self.qos = qos
        self.count = count
        self.next = 0
        self.open: dict[int, int | None] = {}  # identifier -> number, or None when only PUBCOMP is due
        self.acknowledged: set[int] = set()
        self.finished = 0
        self.noticed: Callable[[], object] = lambda: None

    @property
    def topic(self) -> str:
        return f"crash/{self.qos}"

    def resume(self) -> None:
        again = [self._packet(i, n, dup=True) for i, n in self.open.items() if n is not None]
        self.send(*again, *(Ack(Kind.PUBREL, (i,)) for i, n in self.open.items() if n is None))
        self.pump()

    def _packet(self, packet_id: int, number: int, *, dup: bool = False) -> Publish:
        return Publish(self.topic, str(number).encode(), self.qos, dup=dup, packet_id=packet_id)

    def pump(self) -> None:
        fresh: list[Packet] = []
        packet_id = self.next
        while self.next < self.count and len(self.open) < WINDOW:
            packet_id = self.next % 60_000 + 1
            if packet_id in self.open:
                break
            self.open[packet_id] = self.next
            fresh.append(self._packet(packet_id, self.next))
            self.next += 1
        self.send(*fresh)

    def on(self, packet: Packet) -> None:
        assert isinstance(packet, Ack), packet
        released: list[int] = []
        for packet_id in packet.packet_ids:
            if packet.kind is Kind.PUBREC:
                number = self.open.get(packet_id)
                if number is not None:
                    self.acknowledged.add(number)
                self.open[packet_id] = None
                released.append(packet_id)
                continue
            number = self.open.pop(packet_id, None)
            if number is not None:
                self.acknowledged.add(number)
            self.finished += 1
            self.noticed()
        if released:
            self.send(Ack(Kind.PUBREL, tuple(released)))
        self.pump()


class Reader(Peer):
    """Counts what it receives. With QoS 2 a packet whose identifier it has not released is no other message."""

    def __init__(self, client_id: str) -> None:
        super().__init__(client_id)
        self.seen: dict[str, Counter[int]] = {"crash/1": Counter(), "crash/2": Counter()}
        self.unreleased: set[int] = set()

    async def subscribe(self) -> None:
        self.send(Subscribe(1, (Request("crash/#", 2),)))
        (suback,) = await self.packets()
        assert isinstance(suback, Suback)

    def on(self, packet: Packet) -> None:
        if isinstance(packet, Publish):
            number = int(packet.payload)
            if packet.qos == 1:
                self.seen[packet.topic][number] += 1
                self.send(Ack(Kind.PUBACK, (packet.packet_id,)))
                return
            if packet.packet_id not in self.unreleased:
                self.unreleased.add(packet.packet_id)
                self.seen[packet.topic][number] += 1
            self.send(Ack(Kind.PUBREC, (packet.packet_id,)))
        elif isinstance(packet, Ack) and packet.kind is Kind.PUBREL:
            self.unreleased.difference_update(packet.packet_ids)
            self.send(Ack(Kind.PUBCOMP, packet.packet_ids))


async def _true(event: asyncio.Event) -> None:
    await event.wait()


async def life(served: Served, peers: list[Peer], end: asyncio.Task[None]) -> None:
    """All are connected and at work until then, or until the daemon is gone."""
    address = served.address("mqtt")

    async def one(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            async with peer.connected(address):
                if isinstance(peer, Publisher):
                    peer.resume()
                await peer.serve()

    tasks = [asyncio.create_task(one(peer)) for peer in peers]
    both = asyncio.gather(end, *tasks)  # a peer that fails ends it, one that loses its connection does not
    try:
        while not end.done() and not both.done():
            await asyncio.wait((end, both), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await both


async def campaign(folder: Path, count: int, kills: int, seed: int) -> None:
    random = Random(seed)
    publishers = [Publisher(qos, count) for qos in (1, 2)]
    there, away = Reader("there"), Reader("away")
    peers: list[Peer] = [*publishers, there]
    for kill in range(kills):
        with Served(folder) as served:
            served.ready()
            if not kill:
                for reader in (there, away):
                    async with reader.connected(served.address("mqtt")):
                        await reader.subscribe()
            done = sum(p.finished for p in publishers)
            assert done < 2 * count, "all was done before the last kill"
            goal = done + random.randrange(1, 2 + (2 * count - done) // (2 * (kills - kill)))
            struck = asyncio.Event()

            def strike(goal: int = goal, served: Served = served, struck: asyncio.Event = struck) -> None:
                if sum(p.finished for p in publishers) >= goal and not struck.is_set():
                    served.signal(signal.SIGKILL)
                    struck.set()

            for publisher in publishers:
                publisher.noticed = strike
            await asyncio.wait_for(life(served, peers, asyncio.create_task(_true(struck))), 10 * WITHIN)
            assert served.ended() == -signal.SIGKILL
    with Served(folder) as served:
        served.ready()

        async def finished(*readers: Reader) -> None:
            wanted = set(range(count))
            await until(
                lambda: (
                    not any(p.open or p.next < count for p in publishers)
                    and all(seen.keys() == wanted for reader in readers for seen in reader.seen.values())
                )
            )
            await asyncio.sleep(0.2)  # for what would come twice

        await asyncio.wait_for(life(served, peers, asyncio.create_task(finished(there))), 10 * WITHIN)
        assert there.present
        await asyncio.wait_for(life(served, [away], asyncio.create_task(finished(away))), 10 * WITHIN)
    for publisher in publishers:
        assert publisher.acknowledged == set(range(count))
    for reader in (there, away):
        assert set(reader.seen["crash/2"].values()) == {1}, f"{reader.client_id}: not once"
        assert set(reader.seen["crash/1"]) == set(range(count))


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_acknowledged_is_lost_and_qos_2_comes_once(tmp_path: Path, seed: int) -> None:
    await campaign(tmp_path, count=1_000, kills=3, seed=seed)


@pytest.mark.proof
async def test_the_same_with_ten_thousand_of_each(tmp_path: Path) -> None:
    for seed in range(int(os.environ.get("POSTROOM_PROOF_SEED", "0")), 5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        await campaign(folder, count=10_000, kills=8, seed=seed)
