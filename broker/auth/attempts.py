"""Failed attempts, counted per address and per name, so that passwords cannot be tried out. Floor 2."""

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

PERIOD = 60.0
"""Seconds in which as many attempts as may fail become possible again."""
MAX_KEYS = 20_000
"""Sources remembered; beyond it those that failed longest ago are forgotten."""


class _Debt(NamedTuple):
    """So many attempts were made, as of this moment (monotonic seconds)."""

    attempts: float
    at: float


class Attempts:
    """Each source may fail `allowed` times at once, and regains that many within PERIOD. `clock`: monotonic seconds."""

    def __init__(self, allowed: int, clock: Callable[[], float]) -> None:
        self.allowed = allowed
        self._clock = clock
        self._debts: dict[str, _Debt] = {}

    def wait(self, source: str) -> float:
        """Seconds until this source may try again; 0 when it may now."""
        surplus = self._count(source) + 1 - self.allowed
        return max(0.0, surplus * PERIOD / self.allowed)

    def begin(self, source: str) -> None:
        """An attempt counts as failed until it has succeeded, so that many at once are no way around."""
        self._set(source, self._count(source) + 1)

    def succeeded(self, source: str) -> None:
        """It does not count."""
        self._set(source, self._count(source) - 1)

    def _count(self, source: str) -> float:
        debt = self._debts.get(source)
        if debt is None:
            return 0.0
        return max(0.0, debt.attempts - (self._clock() - debt.at) * self.allowed / PERIOD)

    def _set(self, source: str, count: float) -> None:
        self._debts.pop(source, None)
        if count > 0:
            self._debts[source] = _Debt(count, self._clock())
            if len(self._debts) > MAX_KEYS:
                del self._debts[next(iter(self._debts))]


def source_of(address: str) -> str:
    """Who an address is, for counting: of IPv6 the /64, because one client has as many addresses as that holds. One of
    IPv4 stays itself also where a socket for both writes it as `::ffff:10.0.0.1`."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
