"""Which limits are felt now, and by whom: told in the log when it begins and has ended, and to who asks. Floor 1."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)
QUIET = 5.0
"""Seconds after which a limit that nobody ran into again is no longer in force."""
MAX_TOLD = 1_000
"""Pairs of limit and culprit that are told apart; what exceeds them is counted under its limit alone."""


@dataclass(slots=True)
class _Felt:
    detail: str
    since: float
    last: float
    times: int = 0


class Limited:
    """`clock` gives monotonic seconds. Somebody calls `tick` about once a second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._felt: dict[tuple[str, str], _Felt] = {}
        self.times: Counter[str] = Counter()
        """How often each limit was run into since the start."""

    def hit(self, limit: str, who: str, detail: str) -> None:
        """`who` (a principal, an address, or nobody in particular: "") ran into `limit`: its name in `[limits]`, or
        with that of its table before it (`mqtt.max_sessions`)."""
        self.times[limit] += 1
        now = self._clock()
        felt = self._felt.get((limit, who))
        if felt is None:
            if len(self._felt) >= MAX_TOLD:
                return
            felt = self._felt[limit, who] = _Felt(detail, now, now)
            logger.warning("a limit is reached: %s", detail, extra={"limit": _setting(limit), "who": who})
        felt.last = now
        felt.times += 1

    def tick(self) -> None:
        """Say which limits are no longer felt."""
        before = self._clock() - QUIET
        for (limit, who), felt in list(self._felt.items()):
            if felt.last <= before:
                del self._felt[limit, who]
                extra = {"limit": _setting(limit), "who": who, "times": felt.times}
                logger.warning("a limit is no longer reached", extra=extra)

    def status(self) -> list[dict[str, Any]]:
        """Those in force, longest first."""
        now = self._clock()
        return [
            {
                "limit": _setting(limit),
                "who": who,
                "detail": felt.detail,
                "seconds": round(now - felt.since, 1),
                "times": felt.times,
            }
            for (limit, who), felt in self._felt.items()
        ]


def _setting(limit: str) -> str:
    return limit if "." in limit else f"limits.{limit}"
