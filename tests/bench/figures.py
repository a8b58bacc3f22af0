"""What is made of measurements: medians, ratios of the same run, percentiles, and whether a goal is reached."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

Values = Mapping[str, float]
"""What one step measured, by name."""


class Bound(Enum):
    """On which side of its limit a figure must be."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and what it must reach. `value` None: not measured. `aim`: wished, not demanded."""

    what: str
    bound: Bound
    limit: float
    value: float | None
    unit: str = ""
    aim: bool = False

    @property
    def met(self) -> bool | None:
        """None when nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.bound is Bound.AT_LEAST else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """In words."""
        if self.met is None:
            return "not measured"
        return "reached" if self.met else "aimed at, not reached" if self.aim else "MISSED"


@dataclass(slots=True)
class Results:
    """What every step measured in every run, by its key; a run that failed is missing, and told in `failures`."""

    runs: dict[str, dict[int, Values]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, key: str, run: int, values: Values) -> None:
        self.runs.setdefault(key, {})[run] = values

    def all(self, key: str, name: str) -> list[float]:
        """One value of all runs, in their order."""
        return [values[name] for _, values in sorted(self.runs.get(key, {}).items())]

    def median(self, key: str, name: str) -> float | None:
        """None when no run succeeded."""
        return median(self.all(key, name))

    def ratio(self, key: str, other: str, name: str) -> float | None:
        """The median of the ratios within the same run: noise that lasts longer than a run cancels out."""
        ours, theirs = self.runs.get(key, {}), self.runs.get(other, {})
        both = sorted(ours.keys() & theirs.keys())
        return median([ours[run][name] / theirs[run][name] for run in both])


def median(values: Iterable[float]) -> float | None:
    """None for none."""
    values = list(values)
    return statistics.median(values) if values else None


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank: the smallest value that at least so many percent of all do not exceed. Raises ValueError for
    none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
