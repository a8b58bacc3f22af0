"""`window`: messages confirmed, delivered and acked per second, by how many are in flight, beside the others."""

from collections.abc import Mapping, Sequence
from functools import partial

from tests.bench.figures import Bound, Goal, Results
from tests.bench.load import Target
from tests.bench.plan import WINDOWS, Plan, Scenario, Step, Table, step, window_key
from tests.bench.postroom import Postroom
from tests.bench.prototype import Prototype

GOALS: dict[int, dict[str, float]] = {
    1: {"prototype": 0.65},
    128: {"prototype": 0.55, "rabbitmq-quorum": 1.8, "nats-always": 4.0},
    1_024: {"prototype": 0.6, "redis": 0.9, "nats": 0.8},
    8_192: {"prototype": 0.65, "rabbitmq-quorum": 2.5},
}
"""By window: our rate is at least so many times another's, in the same run."""
AIMS: dict[int, dict[str, float]] = {8_192: {"redis": 1.0}}


def scenario(plan: Plan) -> Scenario:
    targets: list[Target] = [Prototype(), Postroom(), *plan.peers]
    steps: list[Step] = []
    for window in WINDOWS:
        steps += [step(window_key(t.name, window), t, partial(plan.load, window, t.share)) for t in targets]
    return Scenario("window", steps, lambda results: _table(plan, targets, results))


def _table(plan: Plan, targets: Sequence[Target], results: Results) -> Table:
    rows: list[Sequence[str | float | None]] = []
    for window in WINDOWS:
        rates = [results.median(window_key(t.name, window), "rate") for t in targets]
        rows.append([f"{window:,}", *rates, ratio_to(results, "prototype", window)])
    columns = ["in flight", *(t.name for t in targets), "postroom / prototype"]
    goals = [*goals_of(results, GOALS), *goals_of(results, AIMS, aim=True)]
    return Table(_how(plan, targets), columns, rows, goals)


def ratio_to(results: Results, other: str, window: int) -> float | None:
    """Ours to another's at the same window."""
    return results.ratio(window_key("postroom", window), window_key(other, window), "rate")


def goals_of(
    results: Results, limits: Mapping[int, Mapping[str, float]], part: float = 1.0, *, aim: bool = False
) -> list[Goal]:
    """Those of a table of windows; `part`: of the limits, when less is asked."""
    return [
        Goal(
            f"{window:,} in flight, × {other}", Bound.AT_LEAST, limit * part, ratio_to(results, other, window), aim=aim
        )
        for window, others in limits.items()
        for other, limit in others.items()
    ]


def _how(plan: Plan, targets: Sequence[Target]) -> str:
    counts = ", ".join(f"{plan.load(window).count:,} at {window:,}" for window in WINDOWS)
    shares = ", ".join(f"{t.name} {t.share:.0%}" for t in targets if t.share != 1)
    part = f" (of these: {shares})" if shares else ""
    kept = "; ".join(f"{t.name} ({t.version()}): {t.durability}" for t in targets)
    return (
        "Messages/s from the first publish until all are confirmed, delivered and acked. 256-byte bodies, one"
        " publisher, one queue, one consumer, raw drivers in one process on the same machine, each server started anew"
        f" on an empty folder. Messages per run: {counts}{part}. What a confirm says: {kept}. {plan.medians}"
        " Ratios are medians of the ratios within a run."
    )
