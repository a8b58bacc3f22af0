"""Publishers and workers that put a daemon under load and note all they do and hear; what they do is drawn from a seed.

They speak raw frames, so that nothing between the notes and the daemon hides a fault. A life of the daemon is one
`Load.life`; clients come back in the next one and go on as their kind does.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, Literal

from tests.system import frames
from tests.system.frames import Frame, Link, greeted
from tests.system.history import Delivered, Gone, History, Restarted, Sent, Settled, Settling
from tests.system.waiting import until

Moment = Literal["published", "confirmed", "delivered", "settled"]
Mode = Literal["sequence", "named", "late", "forgetful"]
"""How a publisher comes back: it sends again what is unconfirmed under the same sequences, or under the same ids;
`late` as `sequence`, with delays; `forgetful` does not send again."""

AHEAD = 3
"""Frames that a publisher has under way."""
QUEUES: dict[str, dict[str, Any]] = {
    "plain": {"topics": ["work/#"]},
    "ordered": {"topics": ["work/#"], "ordered": True},
}


class Load:
    """All clients. `on` is told of each moment, at that moment: a test may kill the daemon there."""

    def __init__(self, seed: int, lease: str = "60s", most_attempts: int = 4) -> None:
        self.random = Random(seed)
        self.history = History()
        self.on: Callable[[Moment], None] = lambda moment: None
        self.address = ""
        self.publishing = False
        self.cut = False  # what is still on its way to the clients is lost
        self.mixed = True  # workers do all that workers do; else they ack
        self.most_attempts = most_attempts
        self._options = {"lease": lease, "retry": {"initial": "5ms", "cap": "20ms", "max_attempts": most_attempts}}
        modes: tuple[Mode, ...] = ("sequence", "sequence", "named", "late", "forgetful")
        self.publishers = [Publisher(self, f"{mode}-{i}", mode) for i, mode in enumerate(modes)]
        self._numbers = count(1)

    async def declare(self) -> None:
        """Make the queues."""
        async with greeted(self.address) as link:
            for name, options in QUEUES.items():
                await link.ask("subscription.put", name=name, **self._options, **options)

    @contextlib.asynccontextmanager
    async def life(self, address: str) -> Any:
        """The clients of one life of the daemon; at the end they are gone. A fault of a client is raised."""
        self.address = address
        self.publishing, self.cut = True, False
        async with asyncio.TaskGroup() as group:
            writers = [group.create_task(publisher.run()) for publisher in self.publishers]
            readers = [group.create_task(self.work(queue)) for queue in QUEUES for _ in range(2)]
            try:
                yield writers
            finally:
                for task in readers + writers:
                    task.cancel()
        self.history.events.append(Restarted())

    async def work(self, queue: str) -> None:
        """A worker that comes back when its connection breaks, until the daemon is gone."""
        with contextlib.suppress(ConnectionError):
            while await Worker(self, next(self._numbers), queue).run():
                pass

    async def finish(self, address: str) -> None:
        """Everything that is unconfirmed is sent again and confirmed, and the queues are worked off."""
        self.mixed = False
        async with self.life(address) as writers:
            self.publishing = False
            await asyncio.gather(*writers)
            async with greeted(address) as link:
                await until(lambda: self._finished(link))

    async def _finished(self, link: Link) -> bool:
        lags = [(await link.ask("subscription.get", name=queue))["lag"] for queue in QUEUES]
        return not any(lags) and not await link.ask("schedule.list", limit=1)


@dataclass
class Batch:
    """Messages that leave in one frame: number → (topic, body, options)."""

    messages: dict[int, tuple[Any, ...]]
    atomic: bool


class Publisher:
    """See `Mode`."""

    def __init__(self, load: Load, name: str, mode: Mode) -> None:
        self._load = load
        self._name = name
        self._mode = mode
        self._next = 1
        self._unconfirmed: list[Batch] = []
        self._number_of: dict[int, int] = {}  # sequence on this connection → number

    async def run(self) -> None:
        """Until the daemon is gone, or until publishing is over and everything is confirmed."""
        hello = {"publisher": f"pub-{self._name}"} if self._mode in ("sequence", "late") else {}
        with contextlib.suppress(ConnectionError):
            broken = True
            while broken and not self._load.cut:
                async with greeted(self._load.address, **hello) as link:
                    broken = await self._run(link, lasting=bool(hello))

    async def _run(self, link: Link, *, lasting: bool) -> bool:
        """One connection; True when it broke, by itself or by our own doing."""
        sequence: int = link.welcome["sequence"]
        self._number_of = {}
        if lasting:
            self._resume(sequence)
        elif self._mode == "forgetful":
            self._unconfirmed.clear()
        for batch in self._unconfirmed:
            sequence = self._send(link, batch, sequence)
        while self._unconfirmed or self._load.publishing:
            while self._load.publishing and len(self._unconfirmed) < AHEAD:
                batch = self._draw()
                self._unconfirmed.append(batch)
                sequence = self._send(link, batch, sequence)
                self._load.on("published")
            frame = await link.hear()
            if frame is None or self._load.cut or (self._load.publishing and self._load.random.random() < 0.005):
                return True
            self._heard(frame)
        return False

    def _resume(self, sequence: int) -> None:
        """The greeting says what is on disk; sequences and numbers are the same here."""
        for batch in self._unconfirmed:
            covered = [number for number in batch.messages if number <= sequence]
            assert not (batch.atomic and 0 < len(covered) < len(batch.messages)), f"half of an atomic batch: {covered}"
            for number in covered:
                self._confirm(number, None)
        self._prune()

    def _draw(self) -> Batch:
        random, size = self._load.random, self._load.random.choice((1, 1, 2, 5, 12))
        batch = Batch({}, atomic=size > 1 and random.random() < 0.3)
        for number in range(self._next, self._next + size):
            options: dict[str, Any] = {}
            if self._mode == "late":
                topic, options["delay"] = "late/1", random.randrange(1, 150)
                sent = Sent(due=int(time.time() * 1000) + options["delay"])
            else:
                topic, key = f"work/{self._name}", f"k{random.randrange(15)}"
                keyed = random.random() < 0.8
                options |= {"key": key} if keyed else {}
                sent = Sent(key if keyed else None, group=self._next if batch.atomic else 0)
            if self._mode == "named":
                options["id"] = f"{self._name} {number}"
            body = f"{self._name} {number}".encode()
            batch.messages[number] = (topic, body, options) if options else (topic, body)
            self._load.history.sent[self._name, number] = sent
        self._next += size
        return batch

    def _send(self, link: Link, batch: Batch, sequence: int) -> int:
        for at, number in enumerate(batch.messages, sequence + 1):
            self._number_of[at] = number
        link.send(frames.PUBLISH, sequence + 1, list(batch.messages.values()), int(batch.atomic))
        return sequence + len(batch.messages)

    def _heard(self, frame: Frame) -> None:
        if frame[0] == frames.CONFIRM:
            _, upto, runs, duplicates = frame
            places = {first + i: offset + i for first, many, offset, _ in runs for i in range(many)}
            places |= {at: offset for at, offset in duplicates if offset >= 0}
            for at in [at for at in self._number_of if at <= upto]:
                self._confirm(self._number_of.pop(at), places.get(at))
            self._prune()
        elif frame[0] == frames.REFUSE:
            # Only a daemon that stops refuses here; then the connection ends, and these are sent again.
            assert frame[3] == "shutting_down", frame
            for at in range(frame[1], frame[1] + frame[2]):
                self._number_of.pop(at, None)

    def _confirm(self, number: int, offset: int | None) -> None:
        self._load.history.confirmed[self._name, number] = offset
        self._load.on("confirmed")

    def _prune(self) -> None:
        confirmed = self._load.history.confirmed
        for batch in self._unconfirmed:
            batch.messages = {n: m for n, m in batch.messages.items() if (self._name, n) not in confirmed}
        self._unconfirmed = [batch for batch in self._unconfirmed if batch.messages]


@dataclass
class Worker:
    """One consumer on one connection. It acks, retries, rejects, releases, holds, waits for the answer or does not,
    and now and then just vanishes."""

    load: Load
    number: int
    queue: str
    held: list[int] = field(default_factory=list)
    asked: dict[int, tuple[str, list[int]]] = field(default_factory=dict)
    requests: Iterator[int] = field(default_factory=count)
    leaving: bool = False

    async def run(self) -> bool:
        """Until the connection breaks; True when that was its own doing."""
        async with greeted(self.load.address) as link:
            link.send(frames.ATTACH, 1, self.queue, {"credit": 40})
            try:
                return await self._run(link)
            finally:
                self.load.history.events.append(Gone(self.number))
                link.drop()

    async def _run(self, link: Link) -> bool:
        while (frame := await link.hear(3600)) is not None and not self.load.cut:
            if frame[0] == frames.DELIVER:
                self._delivered(link, frame)
                if self.load.mixed and not self.leaving and self.load.random.random() < 0.01:
                    return True
            elif frame[0] == frames.REPLY:
                self._answered(frame)
            elif frame[0] == frames.CLOSING:
                self._part(link)
        return False

    def _delivered(self, link: Link, frame: Frame) -> None:
        history, tries = self.load.history, (frame[4] if len(frame) > 4 else None) or {}
        offsets = [row[0] for row in frame[3]]
        for offset in offsets:
            history.events.append(Delivered(self.queue, offset, self.number, *tries.get(offset, (0, 0))))
        self.load.on("delivered")
        for (outcome, answered), chosen in self._decide(offsets).items():
            self._settle(link, outcome, chosen, answered=answered)
        link.send(frames.CREDIT, 1, len(offsets))

    def _decide(self, offsets: Iterable[int]) -> dict[tuple[str, bool], list[int]]:
        """What to do with these, and whether to wait for the answer; what was held long enough is acked."""
        random, chosen = self.load.random, dict[tuple[str, bool], list[int]]()
        for offset in offsets:
            draw = random.random() if self.load.mixed and not self.leaving else 1.0
            if draw < 0.1:
                self.held.append(offset)
                continue
            outcome = "retry" if draw < 0.25 else "release" if draw < 0.3 else "reject" if draw < 0.33 else "ack"
            chosen.setdefault((outcome, draw == 1.0 or random.random() < 0.5), []).append(offset)
        keep = 5 if self.load.mixed and not self.leaving else 0
        while len(self.held) > keep:
            chosen.setdefault(("ack", False), []).append(self.held.pop(0))
        return chosen

    def _settle(self, link: Link, outcome: str, offsets: list[int], *, answered: bool) -> None:
        for offset in offsets:
            self.load.history.events.append(Settling(self.queue, offset, self.number, outcome))
        if answered:
            request = next(self.requests)
            self.asked[request] = (outcome, offsets)
            link.send(frames.SETTLE, 1, outcome, offsets, None, request)
        else:
            link.send(frames.SETTLE, 1, outcome, offsets)
        self.load.on("settled")

    def _answered(self, frame: Frame) -> None:
        outcome, offsets = self.asked.pop(frame[1])
        late = set(frame[2] or ())
        events = [Settled(self.queue, offset, outcome) for offset in offsets if offset not in late]
        self.load.history.events.extend(events)

    def _part(self, link: Link) -> None:
        """The daemon stops: finish what is in hand, then go."""
        self.leaving = True
        if self.held:
            held, self.held = self.held, []
            self._settle(link, "ack", held, answered=True)
        link.send(frames.GOODBYE)
