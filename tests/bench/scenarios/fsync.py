"""`fsync`: the windows again on a disk that is 1 or 5 ms slower; group commit decides. Told without a goal."""

from collections.abc import Sequence
from functools import partial

from tests.bench.figures import Results
from tests.bench.plan import WINDOWS, Plan, Scenario, Step, Table, step, window_key
from tests.bench.postroom import Postroom
from tests.bench.prototype import Prototype

DELAYS = (0.001, 0.005)
"""Seconds added to each commit, by a wait in the writer's thread."""


def scenario(plan: Plan) -> Scenario:
    steps: list[Step] = []
    for delay in DELAYS:
        for window in WINDOWS:
            load = partial(plan.delayed, window, delay)
            steps += [step(_key(t.name, window, delay), t, load) for t in (Prototype(delay), Postroom(delay))]
    return Scenario("fsync", steps, lambda results: _table(plan, results))


def _key(target: str, window: int, delay: float) -> str:
    return f"{window_key(target, window)}, {delay * 1000:g} ms added"


def _table(plan: Plan, results: Results) -> Table:
    rows: list[Sequence[str | float | None]] = []
    for delay in DELAYS:
        for window in WINDOWS:
            ours, yardstick = _key("postroom", window, delay), _key("prototype", window, delay)
            rates = [results.median(yardstick, "rate"), results.median(ours, "rate")]
            rows.append([f"{delay * 1000:g} ms", f"{window:,}", *rates, results.ratio(ours, yardstick, "rate")])
    how = (
        "As `window`, with a wait in the writer's thread after each commit, in postroom and in the prototype. Fewer"
        f" messages where that alone would take more than 5 s. {plan.medians}"
    )
    return Table(how, ["added", "in flight", "prototype", "postroom", "postroom / prototype"], rows)
