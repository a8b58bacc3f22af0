"""`idle-subscriptions`: what publishing costs when 10,000 subscriptions wait for other topics, or one does."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.bench import drive
from tests.bench.figures import Bound, Goal, Results, Values
from tests.bench.plan import Plan, Scenario, Step, Table
from tests.bench.postroom import native_port, served

MANY = 10_000
WINDOWS = (1, 1_024)
ALIKE = 0.95
"""Two rates that are closer than this are one, by the noise of runs."""


def scenario(plan: Plan) -> Scenario:
    counts = (1, plan.count(MANY))
    steps = [Step(_key(count), partial(_measure, plan, count), ("1024", "messages/s")) for count in counts]
    return Scenario("idle-subscriptions", steps, lambda results: _table(plan, counts, results))


def _key(count: int) -> str:
    return f"{count:,} on other topics"


async def _measure(plan: Plan, count: int, folder: Path) -> Values:
    with served(folder) as daemon:
        port = native_port(daemon)
        owner = await drive.connect(port, drive.Wire)
        await owner.put_queues([(f"idle-{i}", f"other/{i}/#") for i in range(count)])
        rates = {}
        for window in WINDOWS:
            load = plan.load(window)
            rates[str(window)] = await drive.publish(port, load.count, window, f"wanted/{time.time_ns()}", load.size)
        owner.close()
        return rates


def _table(plan: Plan, counts: Sequence[int], results: Results) -> Table:
    one, many = map(_key, counts)
    rows: list[Sequence[str | float | None]] = []
    goals = []
    for window in WINDOWS:
        name = str(window)
        ratio = results.ratio(many, one, name)
        rows.append([f"{window:,}", results.median(one, name), results.median(many, name), ratio])
        goals.append(Goal(f"{window:,} in flight, {counts[1]:,} / 1", Bound.AT_LEAST, ALIKE, ratio))
    messages = ", ".join(f"{plan.load(window).count:,} at {window:,}" for window in WINDOWS)
    how = (
        "Messages/s confirmed to one raw publisher on a topic that nobody wants, while so many queues are subscribed to"
        f" other topics. 256-byte bodies; {messages}; a daemon of its own for each. {plan.medians} A ratio of"
        f" {ALIKE} or more counts as no difference."
    )
    return Table(how, ["in flight", *(f"{count:,} idle" for count in counts), "ratio"], rows, goals)
