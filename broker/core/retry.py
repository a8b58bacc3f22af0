"""When a failed message is tried again: the policy returns a decision, nobody sleeps here. Floor 0."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter and a cap, or a fixed `schedule` of delays. Durations are milliseconds.

    `max_attempts` counts real failures: retries asked for and leases that ran out. After the last one the message
    goes to dead letters.
    """

    initial: int = 1_000
    factor: float = 2.0
    cap: int = 600_000
    jitter: float = 0.2
    max_attempts: int = 20
    schedule: tuple[int, ...] = ()

    def delay(self, attempts: int, chance: float) -> int | None:
        """Milliseconds to wait after failure number `attempts` (from 1), or None: give up.

        `chance` is a random number in [0, 1) that the caller draws; it spreads the delay by ± `jitter`.
        """
        if attempts >= self.max_attempts:
            return None
        if self.schedule:
            base = float(self.schedule[min(attempts, len(self.schedule)) - 1])
        else:
            steps = min(attempts - 1, 64)
            base = min(self.initial * self.factor**steps, float(self.cap))
        return max(0, int(base * (1 + self.jitter * (2 * chance - 1))))
