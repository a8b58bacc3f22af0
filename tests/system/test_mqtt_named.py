"""Queues and streams by plain MQTT at a real daemon: beside workers of other doors, over kill -9, and read by slow
clients."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import Ack, Packet, Publish, Request, Suback, Subscribe
from tests.system import frames
from tests.system.door import ask, publish
from tests.system.frames import greeted
from tests.system.hostile import memory
from tests.system.served import WITHIN, Served
from tests.system.test_mqtt_crash import Peer, Publisher, life
from tests.system.waiting import until

pytestmark = pytest.mark.system


def info(served: Served, name: str) -> Any:
    return ask(served, "GET", f"/v1/subscriptions/{name}")[1]


# kill -9


class Worker(Peer):
    """Works off the queue, and leaves every third message unanswered until `diligent`."""

    def __init__(self, client_id: str, handed: Callable[[int, int], None]) -> None:
        super().__init__(client_id)
        self._handed = handed
        self.diligent = False
        self._held: list[int] = []

    async def subscribe(self) -> None:
        self.send(Subscribe(1, (Request("$queue/work/crash/#", 1),)))
        (suback,) = await self.packets()
        assert isinstance(suback, Suback)
        assert suback.reasons == (Reason.GRANTED_QOS_1,)

    def on(self, packet: Packet) -> None:
        assert isinstance(packet, Publish), packet
        assert not packet.dup
        number = int(packet.payload)
        self._handed(number, int(dict(packet.properties["user"])["postroom-offset"]))
        if self.diligent or number % 3:
            self.send(Ack(Kind.PUBACK, (packet.packet_id,)))


async def native_worker(address: str, handed: Callable[[int, int], None], *, diligent: bool) -> None:
    """The same over the native protocol, until the connection is lost."""
    with contextlib.suppress(ConnectionError):
        async with greeted(address) as link:
            link.send(frames.ATTACH, 1, "work", {"credit": 20})
            while (frame := await link.hear(3_600)) is not None:
                if frame[0] != frames.DELIVER:
                    continue
                numbers = {int(row[4]): row[0] for row in frame[3]}
                for number, offset in numbers.items():
                    handed(number, offset)
                done = [offset for number, offset in numbers.items() if diligent or number % 3]
                if done:
                    link.send(frames.SETTLE, 1, "ack", done)
                    link.send(frames.CREDIT, 1, len(done))


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_was_not_settled_comes_again_after_kill_9_and_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    random, count = Random(seed), 600
    numbers: set[int] = set()
    offsets: Counter[int] = Counter()
    of_this_life: Counter[int] = Counter()
    notice: list[Callable[[], None]] = []

    def handed(number: int, offset: int) -> None:
        numbers.add(number)
        offsets[offset] += 1
        of_this_life[offset] += 1
        for call in notice:
            call()

    publisher = Publisher(1, count)
    workers = [Worker(f"worker-{i}", handed) for i in range(2)]
    peers: list[Peer] = [publisher, *workers]
    for kill in range(4):
        last = kill == 3
        of_this_life.clear()
        for worker in workers:
            worker.diligent = last
        with Served(tmp_path) as served:
            served.ready()
            if not kill:
                for worker in workers:
                    async with worker.connected(served.address("mqtt")):
                        await worker.subscribe()
            goal, struck = random.randrange(20, 60), asyncio.Event()

            def strike(served: Served = served, goal: int = goal, struck: asyncio.Event = struck) -> None:
                if sum(of_this_life.values()) >= goal and not struck.is_set():
                    served.signal(signal.SIGKILL)
                    struck.set()

            notice[:] = [] if last else [strike]
            native = asyncio.create_task(native_worker(served.address("native"), handed, diligent=last))

            async def end(served: Served = served, last: bool = last, struck: asyncio.Event = struck) -> None:
                if not last:
                    await struck.wait()
                    return
                await until(lambda: publisher.next == count and not publisher.open)
                await until(lambda: not info(served, "work")["lag"])

            await asyncio.wait_for(life(served, peers, asyncio.create_task(end())), 10 * WITHIN)
            if not last:
                assert served.ended() == -signal.SIGKILL
        await native
        assert max(of_this_life.values()) == 1, "two had it in their hands"
    assert numbers == set(range(count))
    assert max(offsets.values()) > 1, "nothing was left unsettled"
    assert all(worker.present for worker in workers)


# paho


class Paho:
    """paho that has subscribed to one thing. `heard`: payload and user properties."""

    def __init__(self, served: Served, version: int, text: str, *asked: tuple[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self.heard: asyncio.Queue[tuple[str, dict[str, str]]] = asyncio.Queue()
        protocol = MQTTProtocolVersion.MQTTv5 if version == 5 else MQTTProtocolVersion.MQTTv311
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        options: dict[str, Any] = {"qos": 1}
        if version == 5:
            properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
            properties.UserProperty = list(asked)
            options = {"options": SubscribeOptions(qos=1), "properties": properties}
        client.on_connect = lambda *_: self._subscribe(text, options)
        client.on_subscribe = self._subscribed
        client.on_message = self._heard
        client.connect("127.0.0.1", int(served.address("mqtt").rpartition(":")[2]))
        client.loop_start()

    def _subscribe(self, text: str, options: dict[str, Any]) -> None:
        self._client.subscribe(text, **options)

    def _subscribed(self, _c: object, _u: object, _m: int, reasons: list[ReasonCode], _p: object) -> None:
        self._loop.call_soon_threadsafe(self._ready.set_result, reasons)

    def _heard(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        user = dict(getattr(message.properties, "UserProperty", []))
        self._loop.call_soon_threadsafe(self.heard.put_nowait, (message.payload.decode(), user))

    async def granted(self) -> bool:
        return not (await asyncio.wait_for(self._ready, WITHIN))[0].is_failure

    async def hears(self, count: int) -> list[str]:
        async with asyncio.timeout(WITHIN):
            return [(await self.heard.get())[0] for _ in range(count)]

    async def close(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)


def post(served: Served, topic: str, *bodies: str) -> None:
    for body in bodies:
        assert publish(served, topic, body.encode())[0] == 201


async def test_paho_of_both_versions_works_beside_http(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.ready()
        makes = Paho(served, 5, "$queue/jobs/jobs/+")
        joins, misses = Paho(served, 4, "$queue/jobs/jobs/+"), Paho(served, 4, "$queue/none")
        try:
            assert await makes.granted()
            assert await joins.granted()
            assert not await misses.granted()
            bodies = [str(i) for i in range(30)]
            await asyncio.to_thread(post, served, "jobs/1", *bodies)
            await until(lambda: makes.heard.qsize() + joins.heard.qsize() == 30)
            found = [await of.heard.get() for of in (makes, joins) for _ in range(of.heard.qsize())]
            assert sorted(body for body, _ in found) == sorted(bodies)
            assert {user.get("postroom-attempt") for _, user in found} == {"1", None}
            await until(lambda: not info(served, "jobs")["lag"])
        finally:
            for client in (makes, joins, misses):
                await client.close()
        await asyncio.to_thread(post, served, "jobs/2", "left")
        status, got, _ = ask(served, "POST", "/v1/queues/jobs/receive?max=10&wait=0s")
        assert (status, [message["body"] for message in got["messages"]]) == (200, ["left"])


async def test_paho_reads_a_stream_again(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.ready()
        await asyncio.to_thread(post, served, "a/1", "x", "y")
        asked, plain = Paho(served, 5, "$stream/a/#", ("stream-offset", "earliest")), Paho(served, 4, "$stream/a/#")
        try:
            assert await asked.granted()
            assert await plain.granted()
            await asyncio.to_thread(post, served, "a/2", "z")
            assert await asked.hears(2) == ["x", "y"]
            body, user = await asked.heard.get()
            assert body == "z"
            assert await plain.hears(1) == ["z"]
        finally:
            await asked.close()
            await plain.close()
        again = Paho(served, 5, "$stream/#", ("stream-offset", user["stream-position"]))
        try:
            assert await again.granted()
            await asyncio.to_thread(post, served, "b", "new")
            assert await again.hears(1) == ["new"]
        finally:
            await again.close()


# A slow client


class Slow(Peer):
    """Takes whatever comes, but reads nothing at first, and then a piece at a time."""

    window = 65_535

    def __init__(self, qos: int) -> None:
        super().__init__(f"slow-{qos}")
        self.bodies: list[int] = []
        self._qos = qos

    async def subscribe(self) -> None:
        asked = {"user": [("stream-offset", "earliest")]}
        self.send(Subscribe(1, (Request("$stream/crash/#", self._qos),), asked))  # type: ignore[arg-type]
        while not isinstance((await self.packets())[0], Suback):
            pass

    def on(self, packet: Packet) -> None:
        if isinstance(packet, Publish):
            self.bodies.append(int(packet.payload[:10]))
            if packet.qos:
                self.send(Ack(Kind.PUBACK, (packet.packet_id,)))


class Wide(Publisher):
    """Publishes a kilobyte each."""

    def _packet(self, packet_id: int, number: int, *, dup: bool = False) -> Publish:
        return Publish(self.topic(number), b"%010d" % number + bytes(1_000), 1, dup=dup, packet_id=packet_id)


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_slow_client_reads_100_000_messages_in_little_memory(tmp_path: Path, qos: int) -> None:
    count = 100_000
    publisher = Wide(1, count)
    with Served(tmp_path) as served:
        served.ready()

        async def published() -> None:
            await until(lambda: publisher.next == count and not publisher.open, 10 * WITHIN)

        await asyncio.wait_for(life(served, [publisher], asyncio.create_task(published())), 10 * WITHIN)
    with Served(tmp_path) as served:
        served.ready()
        before = most = memory(served)
        slow = Slow(qos)
        async with slow.connected(served.address("mqtt")):
            await slow.subscribe()
            for _ in range(20):
                await asyncio.sleep(0.05)
                most = max(most, memory(served))
            while len(slow.bodies) < count:
                for packet in await slow.packets():
                    slow.on(packet)
                if len(slow.bodies) % 8 == 0:
                    await asyncio.sleep(0.001)
                most = max(most, memory(served))
        assert slow.bodies == list(range(count))
        assert most - before < 20 << 20, f"it grew by {(most - before) >> 20} MiB"
