"""What is said of messages that could not be stored here or sent there: the last word for status, and now and then a
line in the log, which the other side must not be able to flood. Floor 4."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

QUIET = 60.0
"""Seconds between two lines."""


class Refusals:
    """Of one bridge. `last` is what was said last, "" when nothing was."""

    def __init__(self, bridge: str, monotonic: Callable[[], float]) -> None:
        self.last = ""
        self._bridge = bridge
        self._monotonic = monotonic
        self._quiet_until = 0.0
        self._untold = 0

    def tell(self, why: str) -> None:
        """A message was refused."""
        self.last = why
        self._untold += 1
        now = self._monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            log.warning(
                "bridge: messages are refused", extra={"bridge": self._bridge, "reason": why, "count": self._untold}
            )
            self._untold = 0
