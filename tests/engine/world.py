"""What every promise is tested in: an engine on a folder, a clock that only the test moves, and workers that write down
what they are handed."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from broker.core.errors import BrokerError
from broker.core.message import Draft, Row, check_meta, pack_meta
from broker.core.position import EARLIEST, LATEST, Start
from broker.core.retention import Policies
from broker.core.spec import parse_spec
from broker.core.subscription import Delivery, Outcome
from broker.engine.base import Attachment, Engine, Page, Receipt, Scheduled, Settle, SubscriptionInfo, Unit

PATIENCE = 5.0
"""Seconds after which a thing that should have happened has not; only a failing test waits so long."""

PLENTY = 1_000_000


@dataclass
class Clock:
    """Both clocks of an engine, and its luck; they stand still until a test moves them."""

    wall_seconds: float = 1_795_424_400.0
    monotonic_seconds: float = 1_000.0
    luck: float = 0.5

    def wall(self) -> float:
        return self.wall_seconds

    def monotonic(self) -> float:
        return self.monotonic_seconds

    def chance(self) -> float:
        return self.luck

    @property
    def now_ms(self) -> int:
        return round(self.wall_seconds * 1000)

    def move(self, seconds: float) -> None:
        self.wall_seconds += seconds
        self.monotonic_seconds += seconds


class TimedEngine(Engine, Protocol):
    """An engine whose time-driven work (leases, retries, schedules, expiry) can be asked for."""

    async def tick(self) -> None: ...


EngineFactory = Callable[[Path, Clock, Policies], TimedEngine]
"""Makes an engine on a folder, not started."""


class Worker:
    """A consumer that writes down what happens to it."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.rows: list[Row] = []
        self.errors: list[BrokerError] = []
        self.tie: Attachment
        self.on_deliver: Callable[[Delivery], None] | None = None
        self._seen = 0
        self._news = asyncio.Event()

    def deliver(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.rows.extend(delivery.rows)
        if self.on_deliver is not None:
            self.on_deliver(delivery)
        self._news.set()

    def detached(self, error: BrokerError) -> None:
        self.errors.append(error)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something delivered makes it true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def take(self, count: int) -> list[Row]:
        """The next `count` rows that no take has returned yet."""
        start = self._seen
        try:
            await self.until(lambda: len(self.rows) >= start + count)
        except TimeoutError:
            raise AssertionError(f"{count} messages expected, {len(self.rows) - start} came") from None
        self._seen = start + count
        return self.rows[start : self._seen]

    async def bodies(self, count: int) -> list[str]:
        """The same, as texts."""
        return [row[4].decode() for row in await self.take(count)]

    @property
    def waiting(self) -> list[str]:
        """Bodies that came and no take has returned yet."""
        return [row[4].decode() for row in self.rows[self._seen :]]

    @property
    def offsets(self) -> list[int]:
        return [row[0] for row in self.rows]

    def lease_of(self, offset: int) -> int:
        """The number of the last hand-over of a message."""
        return next(d.lease for d in reversed(self.deliveries) if any(row[0] == offset for row in d.rows))

    def attempts_of(self, offset: int) -> tuple[int, int]:
        """What the last hand-over of a message said of earlier ones."""
        last = next(d for d in reversed(self.deliveries) if any(row[0] == offset for row in d.rows))
        return last.attempts.get(offset, (0, 0))

    def settle(self, outcome: Outcome, rows: Sequence[Row], **options: Any) -> list[int]:
        return list(self.tie.settle(outcome, [row[0] for row in rows], **options))

    def ack(self, rows: Sequence[Row]) -> list[int]:
        return self.settle(Outcome.ACK, rows)


@dataclass
class World:
    """An engine in its folder; see the module."""

    folder: Path
    factory: EngineFactory
    policies: Policies
    clock: Clock = field(default_factory=Clock)
    engine: TimedEngine = field(init=False)
    copies: int = 0

    async def start(self) -> None:
        self.engine = self.factory(self.folder, self.clock, self.policies)
        await self.engine.start()

    async def restart(self) -> None:
        """A planned stop, then a start."""
        await self.engine.stop()
        await self.start()

    async def crash(self) -> None:
        """Go on from what was on disk at this moment, as after kill -9."""
        await self.revive(self.copy())

    async def revive(self, copy: Path) -> None:
        """Go on from what was on disk when the copy was made."""
        await self.engine.stop()
        self.folder = copy
        await self.start()

    def copy(self) -> Path:
        """The data folder as it is on disk now."""
        self.copies += 1
        target = self.folder.parent / f"copy{self.copies}"
        shutil.copytree(self.folder, target, ignore=shutil.ignore_patterns("*-shm", "*lock*", "*ballast*"))
        return target

    async def quiet(self) -> None:
        """Let the engine do all it has to do now: commits under way, reads for consumers, deliveries."""
        for _ in range(4):
            await self.commit(Unit())
            await self.engine.read(["$none"], EARLIEST, 1)
            await self.engine.keys("$none")
            for _ in range(5):
                await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Time passes, and what is due happens."""
        self.clock.move(seconds)
        await self.engine.tick()
        await self.quiet()

    # Publishing

    async def commit(self, unit: Unit) -> Receipt:
        """Commit and wait; raises the error of the receipt."""
        receipt = await self.answer(unit)
        if receipt.error is not None:
            raise receipt.error
        return receipt

    def answer(self, unit: Unit) -> "asyncio.Future[Receipt]":
        """Commit now; the receipt comes, errors in it."""
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        unit.done = future.set_result
        unit.size = sum(len(d[2]) + len(d[1] or b"") for d in unit.publishes)
        self.engine.commit(unit)
        return future

    def draft(self, topic: str, body: str | bytes, **options: Any) -> Draft:
        data = body.encode() if isinstance(body, str) else body
        return (topic, pack_meta(check_meta(options, self.clock.now_ms)), data)

    async def publish(self, topic: str, *bodies: str | bytes, sender: Hashable = None, **options: Any) -> Receipt:
        """One unit; the same options for every body."""
        return await self.commit(Unit([self.draft(topic, b, **options) for b in bodies], sender=sender))

    def later(self, topic: str, body: str, seconds: float, id_: str = "", **options: Any) -> Scheduled:
        """A message for the schedule."""
        if id_:
            options["id"] = id_
        due = self.clock.now_ms + round(seconds * 1000)
        return Scheduled(id_ or f"made-{topic}-{body}", due, self.draft(topic, body, **options))

    # Subscriptions and readers

    async def subscribe(self, name: str, *topics: str, **options: Any) -> bool:
        options.setdefault("from", "latest")
        return await self.engine.put_subscription(parse_spec(name, {"topics": topics, **options}))

    def attach(self, name: str, messages: int = PLENTY, size: int = 1 << 40, filters: Sequence[str] = ()) -> Worker:
        """A worker with this much credit; 0 messages: none yet."""
        worker = Worker()
        worker.tie = self.engine.attach(name, worker, filters)
        return self._fed(worker, messages, size)

    def passer(self, filters: Sequence[str], messages: int = PLENTY, size: int = 1 << 40) -> Worker:
        worker = Worker()
        worker.tie = self.engine.follow(filters, LATEST, worker, passing=True)
        return self._fed(worker, messages, size)

    def follow(self, filters: Sequence[str], start: Start, messages: int = PLENTY, size: int = 1 << 40) -> Worker:
        worker = Worker()
        worker.tie = self.engine.follow(filters, start, worker)
        return self._fed(worker, messages, size)

    def tap(self, filters: Sequence[str], messages: int = PLENTY, size: int = 1 << 40) -> Worker:
        worker = Worker()
        worker.tie = self.engine.tap(filters, worker)
        return self._fed(worker, messages, size)

    def _fed(self, worker: Worker, messages: int, size: int) -> Worker:
        if messages:
            worker.tie.grant(messages, size)
        return worker

    async def queue(self, *topics: str, messages: int = PLENTY, **options: Any) -> Worker:
        """A queue `q` and one worker on it."""
        await self.subscribe("q", *(topics or ("jobs",)), **options)
        return self.attach("q", messages)

    def info(self, name: str = "q") -> SubscriptionInfo:
        return self.engine.subscription(name)

    async def settle(self, outcome: Outcome, offset: int, name: str = "q", **options: Any) -> list[tuple[str, int]]:
        """Settle in a unit of its own, without an attachment; returns what came too late."""
        return list((await self.commit(Unit(settles=[Settle(name, outcome, offset, **options)]))).lost)

    async def read(self, *filters: str, start: Start = EARLIEST, limit: int = PLENTY) -> Page:
        return await self.engine.read(filters or ("#",), start, limit, 1 << 40)

    async def log(self, *filters: str) -> list[str]:
        """Bodies of all that is in the log."""
        return [row[4].decode() for row in (await self.read(*filters)).rows]


@asynccontextmanager
async def open_world(folder: Path, factory: EngineFactory, policies: Policies | None = None) -> AsyncIterator[World]:
    """A started world, stopped in the end."""
    world = World(folder, factory, policies or Policies())
    await world.start()
    try:
        yield world
    finally:
        await world.engine.stop()
