"""`backlog`: a million messages that wait. What they cost in memory and at start, and how fast they are worked off."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench import drive
from tests.bench.figures import Bound, Goal, Results, Values
from tests.bench.plan import Plan, Scenario, Step, Table
from tests.bench.postroom import memory, native_port, served, timed_start
from tests.system.served import Served

MESSAGES = 1_000_000
SUBSCRIPTIONS = 10_000
WINDOW = 8_192
BURST, BURSTS = 50_000, 10
"""A burst fits into the memory that the daemon keeps for recent messages."""
BACKLOG, START = "backlog", "start-up"

ROWS: tuple[tuple[str, str, str, str, tuple[Bound, float] | None], ...] = (
    ("memory, all published and waiting", BACKLOG, "waiting", "MB", (Bound.AT_MOST, 250)),
    ("memory, at most while they were published", BACKLOG, "filling", "MB", (Bound.AT_MOST, 250)),
    ("memory, started anew with all waiting", BACKLOG, "restarted", "MB", (Bound.AT_MOST, 250)),
    ("memory, at most from the start until drained", BACKLOG, "draining", "MB", (Bound.AT_MOST, 250)),
    ("start-up after kill -9, all waiting", BACKLOG, "start", "s", (Bound.AT_MOST, 2)),
    ("drained", BACKLOG, "rate", "messages/s", None),
    ("caught-up deliver-and-ack alone", BACKLOG, "caught_up", "messages/s", None),
    ("drained / caught-up alone", BACKLOG, "ratio", "", None),
    ("caught-up while others publish", BACKLOG, "busy", "messages/s", None),
    ("drained / caught-up while others publish", BACKLOG, "busy_ratio", "", (Bound.AT_LEAST, 0.8)),
    ("start-up after kill -9, idle subscriptions", START, "start", "s", (Bound.AT_MOST, 3)),
)


def scenario(plan: Plan) -> Scenario:
    steps = [
        Step(BACKLOG, partial(_backlog, plan.count(MESSAGES))),
        Step(START, partial(_subscriptions, plan.count(SUBSCRIPTIONS)), ("start", "s")),
    ]
    return Scenario("backlog", steps, lambda results: _table(plan, results))


async def _backlog(count: int, folder: Path) -> Values:
    with served(folder) as daemon:
        await _fill(native_port(daemon), count)
        waiting, filling = memory(daemon)
    daemon, seconds = timed_start(folder)
    with daemon:
        restarted, _ = memory(daemon)
        rate = await drive.drain(native_port(daemon), count, "backlog", WINDOW)
        _, draining = memory(daemon)
        caught_up = await _caught_up(daemon, min(BURST, count))
        busy = min(await drive.round_trip(native_port(daemon), min(count, 300_000), WINDOW))
    return {
        "waiting": waiting,
        "filling": filling,
        "restarted": restarted,
        "draining": draining,
        "start": seconds,
        "rate": rate,
        "caught_up": caught_up,
        "ratio": rate / caught_up,
        "busy": busy,
        "busy_ratio": rate / busy,
    }


async def _fill(port: int, count: int) -> None:
    owner = await drive.connect(port, drive.Wire)
    await owner.put_queue("backlog", "backlog/#")
    await drive.publish(port, count, WINDOW, "backlog/created")
    owner.close()


async def _caught_up(daemon: Served, burst: int) -> float:
    """The same consumer on messages that are still in memory, nothing being published meanwhile."""
    port, seconds = native_port(daemon), 0.0
    for _ in range(BURSTS):
        await drive.publish(port, burst, WINDOW, "backlog/created")
        seconds += burst / await drive.drain(port, burst, "backlog", WINDOW)
    return BURSTS * burst / seconds


async def _subscriptions(count: int, folder: Path) -> Values:
    with served(folder) as daemon:
        owner = await drive.connect(native_port(daemon), drive.Wire)
        await owner.put_queues([(f"idle-{i}", f"other/{i}/#") for i in range(count)])
        owner.close()
    daemon, seconds = timed_start(folder)
    with daemon:
        return {"start": seconds}


def _table(plan: Plan, results: Results) -> Table:
    rows: list[Sequence[str | float | None]] = []
    goals = []
    for what, key, name, unit, goal in ROWS:
        value = results.median(key, name)
        rows.append([what, value, unit])
        if goal is not None:
            goals.append(Goal(what, *goal, value, unit))
    how = (
        f"{plan.count(MESSAGES):,} messages of 256 bytes on one topic wait in one queue; then kill -9, start-up"
        " (seconds from exec to the ready line, files in the page cache), and one raw consumer takes and acks them all,"
        f" until all acks are on disk, with a credit of {WINDOW:,}. Caught-up alone: {BURSTS} bursts of"
        f" {min(BURST, plan.count(MESSAGES)):,} messages that are still in the daemon's memory, the same consumer,"
        f" nothing published meanwhile; while others publish: as `window` at {WINDOW:,}. Memory is the daemon's"
        " resident set (VmRSS, VmHWM; MB of 10^6 bytes). Idle subscriptions:"
        f" {plan.count(SUBSCRIPTIONS):,} queues on topics of their own. {plan.medians}"
    )
    return Table(how, ["", "median", "unit"], rows, goals)
