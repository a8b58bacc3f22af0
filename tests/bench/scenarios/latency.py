"""`latency`: how long a message takes to its confirm and to its delivery, at a tenth of the highest rate."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import drive
from tests.bench.figures import Results, Values, percentile
from tests.bench.plan import Plan, Scenario, Step, Table
from tests.bench.postroom import native_port, served

WINDOW = 8_192
TICK = 0.001
"""Seconds between two looks at what is due."""
SECONDS = 5.0
PART = 0.1
STAMP = 8
"""Bytes at the head of a body: when it was sent, by perf_counter, ns."""
NAMES = ("confirm p50", "confirm p99", "delivery p50", "delivery p99", "sender late p99")


class PacedPublisher(drive.Publisher):
    """Sends at a rate, whatever comes back. A message is stamped as it is sent; `late` tells how long after it was due
    the first of each tick was sent."""

    def __init__(self, count: int, rate: float, size: int, topic: str) -> None:
        super().__init__(count, count, size, [topic])
        self.rate = rate
        self.latencies: list[float] = []
        self.late: list[float] = []
        self._flying: deque[tuple[int, float]] = deque()
        self._covered = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = time.perf_counter()
        self._tick()

    def _tick(self) -> None:
        now = time.perf_counter()
        due = min(self.count, int((now - self._began) * self.rate) + 1) - self.sent
        if due > 0:
            self.late.append(now - self._began - self.sent / self.rate)
            self._send(min(due, drive.BATCH), now)
        if self.sent < self.count:
            self._loop.call_later(TICK, self._tick)

    def _send(self, count: int, now: float) -> None:
        body = time.perf_counter_ns().to_bytes(STAMP, "big") + self.body[STAMP:]
        self.transport.write(drive.frame(drive.PUBLISH, self.sent + 1, [(self.topics[0], body)] * count))
        self.sent += count
        self._flying.append((self.sent, now))

    def frame(self, parts: tuple[Any, ...]) -> None:
        if parts[0] == drive.CONFIRM:
            now, flying = time.perf_counter(), self._flying
            while flying and flying[0][0] <= parts[1]:
                last, sent_at = flying.popleft()
                self.latencies += [now - sent_at] * (last - self._covered)
                self._covered = last
        super().frame(parts)

    def pump(self) -> None:
        """Confirms do not set the pace."""


class TimingConsumer(drive.Consumer):
    """Acks everything as it comes, and notes how old it is."""

    def __init__(self, count: int, queue: str, credit: int) -> None:
        super().__init__(count, queue, credit)
        self.latencies: list[float] = []

    def frame(self, parts: tuple[Any, ...]) -> None:
        if parts[0] == drive.DELIVER:
            now = time.perf_counter_ns()
            self.latencies += [(now - int.from_bytes(row[4][:STAMP], "big")) / 1e9 for row in parts[3]]
        super().frame(parts)


def scenario(plan: Plan) -> Scenario:
    steps = [Step("latency", partial(_measure, plan), ("confirm p99", "ms to the confirm, p99"))]
    return Scenario("latency", steps, lambda results: _table(plan, results))


async def _measure(plan: Plan, folder: Path) -> Values:
    with served(folder) as daemon:
        port, load = native_port(daemon), plan.load(WINDOW)
        highest = min(await drive.round_trip(port, load.count, WINDOW, load.size))
        rate = highest * PART
        return {
            "highest": highest,
            "rate": rate,
            **await _paced(port, plan.count(int(rate * SECONDS)), rate, load.size),
        }


async def _paced(port: int, count: int, rate: float, size: int) -> Values:
    consumer = await drive.connect(port, lambda: TimingConsumer(count, "paced", WINDOW))
    await consumer.put_queue("paced", "paced/#")
    consumer.start()
    publisher = await drive.connect(port, lambda: PacedPublisher(count, rate, size, "paced/created"))
    publisher.start()
    await publisher.finished()
    await consumer.finished()
    await consumer.check()
    publisher.close()
    consumer.close()
    return {
        "confirm p50": percentile(publisher.latencies, 50) * 1000,
        "confirm p99": percentile(publisher.latencies, 99) * 1000,
        "delivery p50": percentile(consumer.latencies, 50) * 1000,
        "delivery p99": percentile(consumer.latencies, 99) * 1000,
        "sender late p99": percentile(publisher.late, 99) * 1000,
    }


def _table(plan: Plan, results: Results) -> Table:
    rate, highest = results.median("latency", "rate"), results.median("latency", "highest")
    row: Sequence[str | float | None] = [rate, *(results.median("latency", name) for name in NAMES)]
    how = (
        f"Milliseconds from sending a message to its confirm and to its delivery, at a tenth of the highest rate of the"
        f" same run ({highest or 0:,.0f}/s at {WINDOW:,} in flight), sent whatever comes back, in ticks of"
        f" {TICK * 1000:g} ms, for {SECONDS:g} s, by one raw publisher to one raw consumer that acks; 256-byte bodies."
        f" `sender late`: how long after it was due a tick was sent. {plan.medians}"
    )
    return Table(how, ["messages/s", *(f"{name}, ms" for name in NAMES)], [row])
