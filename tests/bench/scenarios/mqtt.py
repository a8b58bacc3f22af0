"""`mqtt`: QoS 1 by how many are in flight, fan-out at QoS 0, and clients that only keep alive; beside Mosquitto and the
bare prototype."""

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

from tests.bench import prototype_mqtt
from tests.bench.figures import Bound, Goal, Results, Values
from tests.bench.load import TIME_LIMIT, Load
from tests.bench.peers.mosquitto import CONNECT, PUBLISH, SUBSCRIBE, Mosquitto, Publisher, Subscriber, packet, text
from tests.bench.peers.side import measure
from tests.bench.plan import Plan, Scenario, Step, Table
from tests.bench.postroom import memory, served

WINDOWS = {128: 1.0, 1_024: 1.2, 8_192: 1.2}
"""In flight → at least so many times Mosquitto's rate."""
COUNT = 300_000
SUBSCRIBERS, MESSAGES, SIZE = 1_000, 200, 256
IDLE, WATCHED = 10_000, 10.0
KEEP_ALIVE = 60
OURS, KEPT, THEIRS, BARE = "postroom", "postroom, kept session", "mosquitto", "prototype"
OF_BARE = 0.6
"""At least so much of the prototype's rate."""
FAN_OUT, RESTING = "fan-out", "idle clients"

Ports = Callable[[Path], AbstractAsyncContextManager[int]]


@asynccontextmanager
async def daemon(folder: Path) -> AsyncIterator[int]:
    with served(folder) as process:
        yield int(process.address("mqtt").rpartition(":")[2])


class KeptSubscriber(Subscriber):
    """One whose session outlives its connection."""

    client = b"kept"
    clean = False


def scenario(plan: Plan) -> Scenario:
    steps: list[Step] = []
    for window in WINDOWS:
        load = Load(plan.count(COUNT, 4 * window + 100), window)
        steps.append(Step(_key(OURS, window), partial(round_trip, daemon, load, Subscriber)))
        steps.append(Step(_key(KEPT, window), partial(round_trip, daemon, load, KeptSubscriber)))
        steps.append(Step(_key(BARE, window), partial(round_trip, prototype_mqtt.served, load, Subscriber)))
        if not Mosquitto().missing():
            steps.append(Step(_key(THEIRS, window), partial(round_trip, Mosquitto().served, load, Subscriber)))
    crowd = plan.count(SUBSCRIBERS)
    steps.append(Step(f"{FAN_OUT}: {OURS}", partial(_fan_out, daemon, crowd)))
    if not Mosquitto().missing():
        steps.append(Step(f"{FAN_OUT}: {THEIRS}", partial(_fan_out, Mosquitto().served, crowd)))
    steps.append(Step(RESTING, partial(_idle, plan.count(IDLE)), ("connects", "connects/s")))
    return Scenario("mqtt", steps, lambda results: _table(plan, results))


def _key(who: str, window: int) -> str:
    return f"{who}, {window} in flight"


async def round_trip(ports: Ports, load: Load, subscriber: Callable[[Load], Subscriber], folder: Path) -> Values:
    async with ports(folder) as port:
        return (await measure(port, load, lambda: Publisher(load), lambda: subscriber(load))).values()


class Listener(asyncio.Protocol):
    """Subscribes at QoS 0, and counts bytes until so many have come."""

    def __init__(self, number: int, topic: bytes, wanted: int) -> None:
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._greeting = packet(CONNECT, text(b"MQTT") + b"\4\2" + KEEP_ALIVE.to_bytes(2, "big") + text(b"%d" % number))
        self._greeting += packet(SUBSCRIBE, b"\0\1" + text(topic) + b"\0")
        self._wanted = len(CONNACK_SUBACK) + wanted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._greeting)

    def data_received(self, data: bytes) -> None:
        self._wanted -= len(data)
        if self._wanted <= 0 and not self.done.done():
            self.done.set_result(time.perf_counter())

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the server closed the connection: {error}"))


CONNACK_SUBACK = bytes.fromhex("200200009003000100")


async def _listeners(
    port: int, count: int, topic: Callable[[int], bytes], wanted: int, first: int = 0
) -> list[Listener]:
    """A hundred at a time."""
    loop = asyncio.get_running_loop()
    made: list[Listener] = []
    for begin in range(first, first + count, 100):
        fresh = [Listener(i, topic(i), wanted) for i in range(begin, min(first + count, begin + 100))]
        connects: list[Awaitable[object]] = [
            loop.create_connection(lambda one=one: one, "127.0.0.1", port)  # type: ignore[misc]
            for one in fresh
        ]
        await asyncio.gather(*connects)
        made += fresh
        if not wanted:
            await asyncio.wait_for(asyncio.gather(*(one.done for one in fresh)), TIME_LIMIT)
    return made


async def _fan_out(ports: Ports, crowd: int, folder: Path) -> Values:
    message = packet(PUBLISH, text(b"q/x") + os.urandom(SIZE))
    async with ports(folder) as port:
        listeners = await _listeners(port, crowd, lambda _: b"q/#", MESSAGES * len(message))
        (publisher,) = await _listeners(port, 1, lambda _: b"none", 0, first=crowd)
        await asyncio.sleep(0.5)
        started = time.perf_counter()
        for _ in range(MESSAGES):
            publisher.transport.write(message)
        ended = await asyncio.wait_for(asyncio.gather(*(one.done for one in listeners)), TIME_LIMIT)
        for one in [*listeners, publisher]:
            one.transport.close()
    return {"rate": crowd * MESSAGES / (max(ended) - started)}


async def _idle(count: int, folder: Path) -> Values:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with served(folder) as daemon:
        port = int(daemon.address("mqtt").rpartition(":")[2])
        started = time.perf_counter()
        listeners = await _listeners(port, count, lambda i: b"c/%d" % i, 0)
        connects = count / (time.perf_counter() - started)
        before = _busy(daemon.process.pid)
        for tenth in range(10):  # who would ping within so long
            for one in listeners[tenth : int(count * WATCHED / KEEP_ALIVE) : 10]:
                one.transport.write(b"\xc0\0")
            await asyncio.sleep(WATCHED / 10)
        share = (_busy(daemon.process.pid) - before) / WATCHED
        now, _ = memory(daemon)
        for one in listeners:
            one.transport.close()
    return {"connects": connects, "memory": now, "core": 100 * share}


def _busy(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _table(plan: Plan, results: Results) -> Table:
    rows: list[Sequence[str | float | None]] = []
    goals: list[Goal] = []
    for window, least in WINDOWS.items():
        rates = [results.median(_key(who, window), "rate") for who in (THEIRS, BARE, OURS, KEPT)]
        ratios = [results.ratio(_key(OURS, window), _key(who, window), "rate") for who in (THEIRS, BARE)]
        rows.append([f"QoS 1, {window:,} in flight, messages/s", *rates, *ratios])
        for who, limit, ratio in zip((THEIRS, BARE), (least, OF_BARE), ratios, strict=True):
            goals.append(Goal(f"{window:,} in flight, × {who}", Bound.AT_LEAST, limit, ratio))
    ours, theirs = (f"{FAN_OUT}: {who}" for who in (OURS, THEIRS))
    ratio = results.ratio(ours, theirs, "rate")
    rates = [results.median(theirs, "rate"), None, results.median(ours, "rate"), None]
    rows.append([f"QoS 0, one to {plan.count(SUBSCRIBERS):,}, deliveries/s", *rates, ratio, None])
    goals.append(Goal("fan-out, × mosquitto", Bound.AT_LEAST, 0.8, ratio))
    for name, what, unit, bound, limit in (
        ("connects", "connects and subscribes", "per second", Bound.AT_LEAST, 1_000.0),
        ("memory", "memory", "MB", Bound.AT_MOST, 300.0),
        ("core", "of a core, pings included", "%", Bound.AT_MOST, 2.0),
    ):
        value = results.median(RESTING, name)
        rows.append([f"{plan.count(IDLE):,} idle clients: {what}, {unit}", None, None, value, None, None, None])
        goals.append(Goal(f"idle clients, {what}", bound, limit, value, unit))
    how = (
        f"256-byte bodies, MQTT 3.1.1, one publisher and one subscriber that answers each message; ours and the"
        f" prototype's fsynced before PUBACK, Mosquitto's never. Fan-out: {MESSAGES} messages of QoS 0."
        f" Idle clients have a keep alive of {KEEP_ALIVE} s and were watched for {WATCHED:g} s. {plan.medians}"
    )
    columns = ["", THEIRS, BARE, OURS, KEPT, f"{OURS} / {THEIRS}", f"{OURS} / {BARE}"]
    return Table(how, columns, rows, goals)
