"""`streams`: one publisher to many readers of `/v1/stream`: deliveries a second, and how old a message is when the last
of thousands has it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import drive
from tests.bench.child import ROOT, python
from tests.bench.figures import Bound, Goal, Results, Values
from tests.bench.plan import Plan, Scenario, Step, Table
from tests.bench.postroom import memory, native_port, served
from tests.bench.readers import STAMP

SIZE = 256
FAN_OUT, MESSAGES, WINDOW = 1_000, 1_500, 128
AT_LEAST = 100_000
MANY, RATE, SECONDS = 5_000, 5, 15.0
KINDS = {"sse": "server-sent events", "websocket": "WebSocket"}
TOPIC = "prices/live"


class StampingPublisher(drive.Publisher):
    """Texts that begin with the time of their sending."""

    def batch(self, first: int, count: int) -> list[Any]:
        body = f"{time.perf_counter_ns():0{STAMP}}".encode().ljust(SIZE, b"x")
        return [(TOPIC, body, {"content_type": "text/plain"})] * count


class PacedPublisher(StampingPublisher):
    """One after the other, by the clock."""

    def start(self) -> None:
        self._began = asyncio.get_running_loop().time()
        self._tick()

    def _tick(self) -> None:
        self.transport.write(drive.frame(drive.PUBLISH, self.sent + 1, self.batch(self.sent, 1)))
        self.sent += 1
        if self.sent < self.count:
            asyncio.get_running_loop().call_at(self._began + self.sent / RATE, self._tick)

    def pump(self) -> None:
        """Confirms do not set the pace."""


def scenario(plan: Plan) -> Scenario:
    steps = [Step(_fan_out(kind), partial(_measure_fan_out, plan, kind), ("rate", "deliveries/s")) for kind in KINDS]
    steps += [Step(_many(kind), partial(_measure_many, plan, kind), ("p99", "ms, p99")) for kind in KINDS]
    return Scenario("streams", steps, lambda results: _table(plan, results))


def _fan_out(kind: str) -> str:
    return f"1 to {FAN_OUT:,} by {KINDS[kind]}"


def _many(kind: str) -> str:
    return f"{MANY:,} readers by {KINDS[kind]}"


async def _measure_fan_out(plan: Plan, kind: str, folder: Path) -> Values:
    count = plan.count(MESSAGES, WINDOW)
    with served(folder) as daemon:
        async with _crowd(daemon.address("http"), kind, FAN_OUT, count) as crowd:
            publisher = await drive.connect(
                native_port(daemon), lambda: StampingPublisher(count, WINDOW, SIZE, [TOPIC])
            )
            started = time.perf_counter()
            publisher.start()
            told = await _told(crowd)
            publisher.close()
    seconds = told["done"] - started
    return {"rate": FAN_OUT * count / seconds, "megabytes": told["bytes"] / seconds / 1e6}


async def _measure_many(plan: Plan, kind: str, folder: Path) -> Values:
    count = plan.count(int(RATE * SECONDS), RATE)
    with served(folder) as daemon:
        before, _ = memory(daemon)
        async with _crowd(daemon.address("http"), kind, MANY, count) as crowd:
            connected, _ = memory(daemon)
            publisher = await drive.connect(native_port(daemon), lambda: PacedPublisher(count, count, SIZE, [TOPIC]))
            publisher.start()
            told = await _told(crowd)
            publisher.close()
            _, peak = memory(daemon)
    each = (connected - before) * 1e3 / MANY
    return {"p50": told["p50"], "p99": told["p99"], "slowest": told["p100"], "peak": peak, "each": each}


@asynccontextmanager
async def _crowd(address: str, kind: str, readers: int, messages: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """So many readers that have begun, in a process that ends with the block."""
    port = address.rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        *python("tests.bench.readers", kind, port, str(readers), str(messages), TOPIC),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError("the readers ended before they began; they say why above")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _told(process: asyncio.subprocess.Process) -> dict[str, float]:
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the readers failed; they say why above")
    told: dict[str, float] = json.loads(out)
    return told


def _table(plan: Plan, results: Results) -> Table:
    rows: list[Sequence[str | float | None]] = []
    goals = []
    for kind, name in KINDS.items():
        fan_out, many = partial(results.median, _fan_out(kind)), partial(results.median, _many(kind))
        rows.append([name, fan_out("rate"), *(many(value) for value in ("p50", "p99", "slowest", "each", "peak"))])
        goals.append(Goal(_fan_out(kind), Bound.AT_LEAST, AT_LEAST, fan_out("rate"), " deliveries/s"))
    how = (
        f"One raw native publisher, texts of {SIZE} bytes, readers of one topic in one process that count and read the"
        f" time of sending. deliveries/s: {FAN_OUT:,} readers, {WINDOW} messages in flight, until the last reader has"
        f" the last. Milliseconds from sending to each of {MANY:,} readers, at {RATE} messages/s; kB of the daemon's"
        f" resident memory for each of these, and its peak in MB. {plan.medians}"
    )
    columns = ["by", "deliveries/s", "p50, ms", "p99, ms", "slowest, ms", "kB a reader", "peak, MB"]
    return Table(how, columns, rows, goals)
