"""On standard error: which measurement of how many is under way, what came of it, and how long the rest may take."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence


def time_left(taken: dict[str, list[float]], rest: Sequence[str]) -> float | None:
    """Seconds for the rest, by what the same steps took before, else by what any took; None when nothing is known."""
    known = [seconds for each in taken.values() for seconds in each]
    if not known:
        return None
    typical = statistics.fmean(known)
    return sum(statistics.fmean(taken[key]) if key in taken else typical for key in rest)


def duration(seconds: float) -> str:
    """As people say it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class Progress:
    """`keys`: of all measurements to come, in order."""

    def __init__(
        self,
        keys: Sequence[str],
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._say = say
        self._clock = clock
        self._done = 0
        self._taken: dict[str, list[float]] = {}
        self._began = 0.0

    def begin(self, text: str) -> None:
        """The next one starts."""
        left = time_left(self._taken, self._keys[self._done :])
        about = "" if left is None else f", about {duration(left)} left"
        self._say(f"[{self._done + 1} of {len(self._keys)}{about}] {text}")
        self._began = self._clock()

    def end(self, text: str) -> None:
        """It is over."""
        self._taken.setdefault(self._keys[self._done], []).append(self._clock() - self._began)
        self._done += 1
        self._say(f"    {text}")
