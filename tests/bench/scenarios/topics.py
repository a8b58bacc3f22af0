"""`topics`: the windows again with 10,000 distinct topics and an id by the caller on every message."""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial

from tests.bench.figures import Results
from tests.bench.load import Load
from tests.bench.plan import WINDOWS, Plan, Scenario, Step, Table, step, window_key
from tests.bench.postroom import Postroom
from tests.bench.prototype import Prototype
from tests.bench.scenarios.window import GOALS, goals_of, ratio_to

TOPICS = 10_000
PART = 0.6
"""Of what is asked of one topic without ids."""


def scenario(plan: Plan) -> Scenario:
    steps: list[Step] = []
    for window in WINDOWS:
        plain = partial(plan.load, window)
        steps += [
            step(window_key("prototype", window), Prototype(), plain),
            step(window_key("postroom", window), Postroom(), partial(_named, plain())),
        ]
    return Scenario("topics", steps, lambda results: _table(plan, results))


def _named(load: Load) -> Load:
    """With ids that no other run had."""
    return dataclasses.replace(load, topics=TOPICS, ids=f"{time.time_ns():x}-")


def _table(plan: Plan, results: Results) -> Table:
    rows: list[Sequence[str | float | None]] = []
    for window in WINDOWS:
        rates = [results.median(window_key(name, window), "rate") for name in ("prototype", "postroom")]
        rows.append([f"{window:,}", *rates, ratio_to(results, "prototype", window)])
    counts = ", ".join(f"{plan.load(window).count:,} at {window:,}" for window in WINDOWS)
    how = (
        f"As `window`, but postroom's messages go to {TOPICS:,} topics in turn and each carries an id of its caller"
        " that was never seen before; the prototype, which knows neither, does what it always does. Messages per run:"
        f" {counts}. {plan.medians} Asked: {PART:.0%} of what one topic must reach beside the"
        " prototype."
    )
    limits = {window: {"prototype": others["prototype"]} for window, others in GOALS.items()}
    columns = ["in flight", "prototype", "postroom, topics and ids", "postroom / prototype"]
    return Table(how, columns, rows, goals_of(results, limits, PART))
