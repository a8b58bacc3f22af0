"""How long to wait before connecting again: exponential, capped, spread by chance lest all clients return at once."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds. `chance` draws from [0, 1) and is a parameter so that tests are not left to it."""

    initial: float = 0.05
    cap: float = 10.0
    factor: float = 2.0
    chance: Callable[[], float] = random.random

    def delay(self, failures: int) -> float:
        """The wait after failure number `failures` (from 1): between half and the whole of the exponential step."""
        step = min(self.cap, self.initial * self.factor ** min(failures - 1, 32))
        return step * (0.5 + 0.5 * self.chance())
