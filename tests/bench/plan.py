"""What is to be measured: scenarios, each a list of steps that is run as often as wanted, and what is told of it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import Goal, Results, Values
from tests.bench.load import Load, Rates, Target

WINDOWS = (1, 128, 1_024, 8_192)
COUNTS = {1: 15_000, 128: 300_000, 1_024: 500_000, 8_192: 500_000}
"""Messages by window: a few seconds of a fast broker."""
QUICK = 20
"""Quick runs have so many times fewer messages."""
SLOWEST = 5.0
"""Seconds that a run with injected delays may take by these delays alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the caller chose."""

    runs: int = 5
    quick: bool = False
    peers: Sequence[Target] = ()

    @property
    def medians(self) -> str:
        """The sentence that says how often each figure was measured."""
        return "One run." if self.runs == 1 else f"Medians of {self.runs} alternating runs."

    def count(self, wanted: int, least: int = 100) -> int:
        """Of messages or subscriptions."""
        return max(least, wanted // QUICK) if self.quick else wanted

    def load(self, window: int, share: float = 1.0) -> Load:
        """For one window; quick or slow, it still fills the window a few times."""
        return Load(self.count(int(COUNTS[window] * share), 4 * window + 100), window)

    def delayed(self, window: int, delay: float) -> Load:
        """With `delay` seconds added to each commit, of at most a window of messages each."""
        longest = int(SLOWEST * window / delay)
        return Load(self.count(min(COUNTS[window], longest), 4 * window), window)


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement, with servers and a folder of its own. `key` names it in results and progress; `shown` is the
    value that progress tells, with its unit."""

    key: str
    measure: Callable[[Path], Awaitable[Values]]
    shown: tuple[str, str] = ("rate", "messages/s")


@dataclass(slots=True)
class Table:
    """Medians, as people read them; `how` says what was measured and by which means."""

    how: str
    columns: Sequence[str]
    rows: list[Sequence[str | float | None]]
    goals: list[Goal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`tell` makes the table from the results of all runs."""

    name: str
    steps: Sequence[Step]
    tell: Callable[[Results], Table]


def step(key: str, target: Target, load: Callable[[], Load]) -> Step:
    """A load on a target; `load` is asked anew for each run."""

    async def measure(folder: Path) -> Values:
        rates: Rates = await target.measure(load(), folder)
        return rates.values()

    return Step(key, measure)


def window_key(target: str, window: int) -> str:
    """What a step of a table of windows is called."""
    return f"{target}, {window:,} in flight"
