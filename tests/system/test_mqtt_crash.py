"""kill -9 while MQTT clients publish and receive with QoS 1 and 2, some of them away, two as members of a group.

Nothing acknowledged is lost, neither messages nor what is retained nor the will of who does not come back, and with
QoS 2 every message comes once. Clients do as the standard says: they come back, go on with their sessions, and send
again what was not answered.
"""

import asyncio
import contextlib
import os
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import (
    V5,
    Ack,
    Connack,
    Connect,
    Packet,
    Publish,
    Request,
    Suback,
    Subscribe,
    Will,
)
from tests.system.served import WITHIN, Served
from tests.system.waiting import until

pytestmark = pytest.mark.system
WINDOW = 500
"""Messages of a publisher without an answer, and of a reader."""
KEPT = 10
"""Topics with a retained message."""


class Peer:
    """A client with a session that is kept, over many connections."""

    will: Will | None = None
    expiry = 3_600
    window = WINDOW

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.present = False

    @asynccontextmanager
    async def connected(self, address: str) -> AsyncIterator[None]:
        host, _, port = address.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        self.decoder = Decoder(version=V5, from_client=False)
        try:
            properties = {"session_expiry": self.expiry, "receive_maximum": self.window}
            self.send(Connect(V5, self.client_id, False, will=self.will, properties=properties))  # type: ignore[arg-type]
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

    retain = False

    def __init__(self, qos: int, count: int, client_id: str = "publisher") -> None:
        super().__init__(f"{client_id}-{qos}")
        self.qos = qos
        self.count = count
        self.next = 0
        self.open: dict[int, int | None] = {}  # identifier -> number, or None when only PUBCOMP is due
        self.acknowledged: set[int] = set()
        self.finished = 0
        self.noticed: Callable[[], object] = lambda: None

    def topic(self, number: int) -> str:
        return f"crash/{self.qos}"

    def resume(self) -> None:
        again = [self._packet(i, n, dup=True) for i, n in self.open.items() if n is not None]
        self.send(*again, *(Ack(Kind.PUBREL, (i,)) for i, n in self.open.items() if n is None))
        self.pump()

    def _packet(self, packet_id: int, number: int, *, dup: bool = False) -> Publish:
        return Publish(self.topic(number), str(number).encode(), self.qos, self.retain, dup, packet_id)

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


class Keeper(Publisher):
    """Likewise, each number in the place of an earlier one, as the retained message of its topic."""

    retain = True

    def topic(self, number: int) -> str:
        return f"kept/{number % KEPT}"

    def last(self, numbers: Iterable[int]) -> dict[str, int]:
        """The highest of each topic."""
        return {self.topic(number): number for number in sorted(numbers)}


class Reader(Peer):
    """Counts what it receives. With QoS 2 a packet whose identifier it has not released is no other message."""

    def __init__(self, client_id: str, text: str) -> None:
        super().__init__(client_id)
        self.text = text
        self.seen: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.unreleased: set[int] = set()

    async def subscribe(self) -> None:
        self.send(Subscribe(1, (Request(self.text, 2),)))
        suback, *rest = await self.packets()
        assert isinstance(suback, Suback)
        for packet in rest:
            self.on(packet)

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


class Mortal(Peer):
    """Is there until the broker dies, never comes back, and has a will."""

    def __init__(self, number: int) -> None:
        super().__init__(f"mortal-{number}")
        self.will = Will("wills", str(number).encode(), 2)


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


class Campaign:
    """`count` messages of each publisher, and a broker that is killed so many times before all are out."""

    def __init__(self, folder: Path, count: int, kills: int, seed: int) -> None:
        self.folder = folder
        self.count = count
        self.kills = kills
        self.random = Random(seed)
        self.keeper = Keeper(1, count, "keeper")
        self.publishers = [Publisher(1, count), Publisher(2, count), self.keeper]
        self.there, self.away = Reader("there", "crash/#"), Reader("away", "crash/#")
        self.members = [Reader(f"member-{i}", "$share/crew/crash/1") for i in range(2)]
        self.watcher = Reader("watcher", "wills")
        self.present: list[Peer] = [*self.publishers, self.there, *self.members]

    async def run(self) -> None:
        for kill in range(self.kills):
            with Served(self.folder) as served:
                served.ready()
                if not kill:
                    for reader in (self.there, self.away, self.watcher, *self.members):
                        async with reader.connected(served.address("mqtt")):
                            await reader.subscribe()
                await self.check_retained(served, kill)
                async with Mortal(kill).connected(served.address("mqtt")):
                    await self.until_killed(served, self.kills - kill)
        with Served(self.folder) as served:
            served.ready()
            await self.check_retained(served, self.kills)
            await self.finish(served)
        self.check()

    async def until_killed(self, served: Served, left: int) -> None:
        """All work until the broker is killed, at some moment of what is to be done before the last kill."""
        done, total = self.finished, self.count * len(self.publishers)
        assert done < total, "all was done before the last kill"
        goal = done + self.random.randrange(1, 2 + (total - done) // (2 * left))
        struck = asyncio.Event()

        def strike() -> None:
            if self.finished >= goal and not struck.is_set():
                served.signal(signal.SIGKILL)
                struck.set()

        for publisher in self.publishers:
            publisher.noticed = strike
        await asyncio.wait_for(life(served, self.present, asyncio.create_task(_true(struck))), 10 * WITHIN)
        assert served.ended() == -signal.SIGKILL

    async def check_retained(self, served: Served, number: int) -> None:
        """Of each topic that has an acknowledged message the last one is there, or one that was sent after it."""
        late = Reader(f"late-{number}", "kept/#")
        late.expiry = 0
        acknowledged = self.keeper.last(self.keeper.acknowledged)
        async with late.connected(served.address("mqtt")), asyncio.timeout(WITHIN):
            await late.subscribe()
            while not acknowledged.keys() <= late.seen.keys():
                for packet in await late.packets():
                    late.on(packet)
        for topic, last in acknowledged.items():
            (found,) = late.seen[topic]
            assert last <= found < self.keeper.next

    async def finish(self, served: Served) -> None:
        """The rest is published, and everybody has what is theirs."""
        await self.live(served, self.present, lambda: not self.open and self.worked_off and self.has_all(self.there))
        assert all(reader.present for reader in (self.there, *self.members))
        await self.live(served, [self.away], lambda: self.has_all(self.away))
        await self.live(served, [self.watcher], lambda: len(self.watcher.seen["wills"]) == self.kills)

    @staticmethod
    async def live(served: Served, peers: list[Peer], condition: Callable[[], bool]) -> None:
        async def end() -> None:
            await until(condition)
            await asyncio.sleep(0.2)  # for what would come twice

        await asyncio.wait_for(life(served, peers, asyncio.create_task(end())), 10 * WITHIN)

    @property
    def finished(self) -> int:
        return sum(publisher.finished for publisher in self.publishers)

    @property
    def open(self) -> bool:
        return any(publisher.open or publisher.next < self.count for publisher in self.publishers)

    @property
    def worked_off(self) -> bool:
        return {number for member in self.members for number in member.seen["crash/1"]} == set(range(self.count))

    def has_all(self, reader: Reader) -> bool:
        return all(reader.seen[topic].keys() == set(range(self.count)) for topic in ("crash/1", "crash/2"))

    def check(self) -> None:
        assert all(publisher.acknowledged == set(range(self.count)) for publisher in self.publishers)
        for reader in (self.there, self.away):
            assert self.has_all(reader)
            assert set(reader.seen["crash/2"].values()) == {1}, f"{reader.client_id}: not once"
        assert self.worked_off
        assert self.watcher.seen["wills"] == Counter(range(self.kills))


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_acknowledged_is_lost_and_qos_2_comes_once(tmp_path: Path, seed: int) -> None:
    await Campaign(tmp_path, count=1_000, kills=3, seed=seed).run()


@pytest.mark.proof
async def test_the_same_with_ten_thousand_of_each(tmp_path: Path) -> None:
    for seed in range(int(os.environ.get("POSTROOM_PROOF_SEED", "0")), 5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        await Campaign(folder, count=10_000, kills=8, seed=seed).run()
