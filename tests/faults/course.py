"""A course of work that uses all of the engine, and the memory of what was answered, to judge the engine after a fault.

Texts are unique; `Answers` says of each what its publisher or worker was told.
"""

from dataclasses import dataclass, field

from broker.core.errors import BrokerError
from broker.core.retention import Policies
from broker.core.subscription import Outcome
from broker.engine.base import Set, Settle, Unit
from tests.engine.world import Worker, World

POLICIES = {"small/#": {"count": 2}, "#": {"age": "forever"}}
WEEK = 7 * 86_400


@dataclass
class Answers:
    """`confirmed` and `refused`: texts published. `done`: settled for good and answered. `touched`: perhaps settled.
    `keys`: the value each key has, if the last write was answered. `told`: how often a unit was answered."""

    confirmed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    keys: dict[str, bytes] = field(default_factory=dict)
    waiting: int = 0


class Course:
    """Runs until an action is refused; see the module."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers = Answers()
        self.workers: list[Worker] = []

    async def run(self) -> None:
        """Raises what the engine raises."""
        await self._publish_and_settle()
        await self._schedule()
        await self._fail_and_redrive()
        await self._manage()
        await self._keep_house()

    # Actions

    async def commit(self, unit: Unit, *texts: str, **sets: bytes) -> None:
        """Commit a unit that publishes these texts and sets these keys; remember the answer."""
        answers = self.answers
        answers.keys = {key: value for key, value in answers.keys.items() if key not in sets}
        try:
            answer = self.world.answer(unit)
        except BrokerError:
            answers.refused.update(texts)
            raise
        answers.waiting += 1
        receipt = await answer
        answers.waiting -= 1
        if receipt.error is not None:
            answers.refused.update(texts)
            raise receipt.error
        answers.confirmed.update(texts)
        answers.keys.update(sets)

    async def publish(self, topic: str, *texts: str, **options: object) -> None:
        await self.commit(Unit([self.world.draft(topic, text, **options) for text in texts]), *texts)

    async def settle(self, outcome: Outcome, offset: int, text: str, unit: Unit | None = None, *texts: str) -> None:
        unit = unit or Unit()
        unit.settles.append(Settle("q", outcome, offset))
        self.answers.touched.add(text)
        await self.commit(unit, *texts)
        if outcome in (Outcome.ACK, Outcome.REJECT):
            self.answers.done.add(text)

    def worker(self) -> Worker:
        worker = self.world.attach("q")
        self.workers.append(worker)
        return worker

    # The course

    async def _publish_and_settle(self) -> None:
        world = self.world
        retry = {"initial": "1s", "jitter": 0.0, "max_attempts": 2}
        await world.subscribe("q", "jobs/#", retry=retry)
        await world.subscribe("s", "#", kind="stream")
        worker = self.worker()
        await self.publish("jobs/1", "a1", "a2", "a3", "a4")
        await self.publish("jobs/2", "n1", id="name")
        await self.publish("jobs/2", "n2", id="name 2", key="k", priority=3)
        await world.quiet()
        await self.settle(Outcome.ACK, 1, "a1")
        await self.settle(Outcome.RETRY, 2, "a2")
        await self.settle(Outcome.REJECT, 3, "a3")
        unit = Unit([world.draft("jobs/3", "u1"), world.draft("else/1", "u2")], sets=[Set("key", b"1")])
        await self.commit_with_settle(unit, 4, "a4")
        worker.tie.detach()
        await self.commit(Unit(sets=[Set("key", b"2", 1), Set("other", b"x")]), key=b"2", other=b"x")

    async def commit_with_settle(self, unit: Unit, offset: int, text: str) -> None:
        self.answers.keys.pop("key", None)
        await self.settle(Outcome.ACK, offset, text, unit, "u1", "u2")
        self.answers.keys["key"] = b"1"

    async def _schedule(self) -> None:
        world = self.world
        later = [
            world.later("jobs/4", "l1", 5),
            world.later("jobs/4", "l2", 5, "l2-name"),
            world.later("else/2", "l3", 9),
        ]
        await self.commit(Unit(schedules=later), "l1", "l2", "l3")
        self.answers.cancelled.add("l3")
        assert await world.engine.cancel(later[2].id)
        await world.advance(6)

    async def _fail_and_redrive(self) -> None:
        """a2 fails for the second time and dies; the dead come back."""
        world = self.world
        worker = self.worker()
        await world.quiet()
        self.answers.touched.add("a2")
        worker.settle(Outcome.RETRY, [row for row in worker.rows if row[4] == b"a2"])
        await world.advance(1)
        await world.engine.redrive("q", 10)
        await world.quiet()
        await self.publish("jobs/5", "b1")

    async def _manage(self) -> None:
        world = self.world
        await world.engine.pause("q", True)
        await world.subscribe("p", "jobs/#", "else/#", **{"from": "earliest"})
        await world.subscribe("p", "jobs/+")
        await self.publish("jobs/6", "b2")
        await world.engine.purge("p")
        await world.engine.delete_subscription("p")
        await world.engine.pause("q", False)

    async def _keep_house(self) -> None:
        """Retention, checkpoints, old ids: those that were given a week ago are still known."""
        world = self.world
        await self.publish("small/1", *(f"s{i}" for i in range(5)))
        for seconds in (3.0, 6.0, WEEK):
            await world.advance(seconds)
        await self.publish("jobs/7", "b3")
        again = await world.publish("jobs/2", "n1 again", id="name")
        assert again.duplicates == {0: 5}


def policies() -> Policies:
    return Policies.parse(POLICIES)


async def judge(course: Course, world: World, *, certain: bool) -> None:
    """`world` is open again on what the course left. `certain`: what was refused is known not to have been done."""
    answers = course.answers
    await world.advance(3_600)
    worker = Worker()
    if any(info.spec.name == "q" for info in world.engine.subscriptions()):
        await world.engine.pause("q", False)
        worker = world.attach("q")
        await world.quiet()
    log = await world.log("jobs/#", "else/#")
    lost = {text for text in answers.confirmed - answers.cancelled if not text.startswith("s")} - set(log)
    assert not lost
    assert len(log) == len(set(log))
    if certain:
        assert not answers.refused & set(log)
    came = [row[4].decode() for row in worker.rows]
    assert len(came) == len(set(came)), "in the hands of one worker twice"
    dead = await world.log("$dead/#")
    redriven = {row[4].decode() for row in worker.rows if row[1].startswith("$redrive/")}
    assert len(dead) == len(set(dead))
    assert not redriven & set(dead)
    assert not (answers.done - {"a3"}) & {*came, *dead}, "settled and answered, and here again"
    assert "a3" not in answers.done or "a3" in redriven | set(dead), "a dead letter is lost"
    jobs = {text for text in answers.confirmed if text[0] in "anlb" or text == "u1"} - answers.cancelled
    assert jobs - answers.touched <= set(came), "never settled, and not handed out"
    for key, value in answers.keys.items():
        found = await world.engine.get(key)
        assert found is not None
        assert found[0] == value
    await world.publish("jobs/9", "last")
    await world.quiet()
    assert "last" in await world.log("jobs/9")
