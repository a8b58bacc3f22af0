"""Who may publish now, and who has to wait: rates per principal, and one budget of memory for what waits for the disk.

It decides; how a client is slowed is its door's. A door that can stop reading asks `pause` after each unit, a door
that answers each request asks `check` before it takes a body. Settles are never slowed. Floor 2.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from broker.core.errors import BrokerError, Code
from broker.limits import Limits
from broker.observe.limited import Limited

MAX_BUCKETS = 10_000
"""Principals whose rate is remembered; beyond it those who have not published for a second are forgotten."""
OVERLOADED_SECONDS = 1.0
"""After so long it makes sense to ask again when memory was short."""


class Bucket:
    """The credit of one principal: a second's worth of messages and of bytes. It may fall below zero, by what came in
    one piece; then the principal waits until it has grown back, so that its rate holds whatever the pieces are."""

    def __init__(self, rates: tuple[int, int], now: float) -> None:
        self._rates = rates
        self._credits = [float(rate) for rate in rates]
        self._at = now

    def spend(self, now: float, *amounts: int) -> None:
        """So many messages and bytes were published."""
        self._refill(now)
        for i, amount in enumerate(amounts):
            self._credits[i] -= amount

    def wait(self, now: float) -> tuple[float, int]:
        """(seconds until nothing is owed, the index of the rate that says so)."""
        self._refill(now)
        return max((-credit / rate if rate else 0.0, i) for i, (credit, rate) in enumerate(self._pairs()))

    def idle(self, now: float) -> bool:
        """Is it full?"""
        self._refill(now)
        return all(credit >= rate for credit, rate in self._pairs())

    def _pairs(self) -> list[tuple[float, int]]:
        return [(c, r) for c, r in zip(self._credits, self._rates, strict=True)]

    def _refill(self, now: float) -> None:
        passed, self._at = now - self._at, now
        self._credits = [min(float(rate), credit + passed * rate) for credit, rate in self._pairs()]


class Flow:
    """`clock` gives monotonic seconds. A principal is known by its name here; None is the broker itself, which has no
    rate."""

    def __init__(self, limits: Limits, limited: Limited, clock: Callable[[], float] = time.monotonic) -> None:
        self.limited = limited
        self._limits = limits
        self.clock = clock
        self._rates = (limits.publish_messages_per_second, limits.publish_bytes_per_second)
        self._buckets: dict[Hashable, Bucket] = {}
        self.uncommitted = 0
        """Bytes of units that wait for their commit, over all doors."""
        self._senders: defaultdict[Hashable, dict[Hashable, int]] = defaultdict(dict)  # principal -> sender -> bytes
        self.blocked = 0
        """Connections that are not read, or whose publishes are held back, by a limit."""

    def status(self) -> dict[str, Any]:
        """What `/v1/status` says of limits."""
        return {
            "in_force": self.limited.status(),
            "publishers_blocked": self.blocked,
            "uncommitted_bytes": self.uncommitted,
        }

    def measured(self) -> tuple[Mapping[str, int], Mapping[str, tuple[str, Callable[[], float]]]]:
        """What metrics say of limits: counts by limit, and gauges."""
        return self.limited.times, {
            "publishers_blocked": ("Connections that publish and are slowed by a limit", lambda: self.blocked),
            "uncommitted_bytes": (
                "Bytes of units that are not committed yet, over all doors",
                lambda: self.uncommitted,
            ),
        }

    # What is in hand

    def enter(self, principal: Hashable, sender: Hashable, weight: int) -> None:
        """A unit of this sender begins to wait for its commit."""
        self.uncommitted += weight
        senders = self._senders[principal]
        senders[sender] = senders.get(sender, 0) + weight

    def leave(self, principal: Hashable, sender: Hashable, weight: int) -> None:
        """It was answered."""
        self.uncommitted -= weight
        senders = self._senders[principal]
        left = senders[sender] - weight
        if left > 0:
            senders[sender] = left
            return
        del senders[sender]
        if not senders:
            del self._senders[principal]

    def spend(self, principal: Hashable, messages: int, size: int) -> None:
        """A unit was taken: so many messages and bytes count against its principal's rates."""
        if principal is not None and any(self._rates):
            now = self.clock()
            bucket = self._buckets.get(principal)
            if bucket is None:
                bucket = self._buckets[principal] = self._bucket(now)
            bucket.spend(now, messages, size)

    def _bucket(self, now: float) -> Bucket:
        if len(self._buckets) >= MAX_BUCKETS:
            self._buckets = {name: bucket for name, bucket in self._buckets.items() if not bucket.idle(now)}
        return Bucket(self._rates, now)

    # May it go on?

    def crowded(self, principal: Hashable, sender: Hashable, size: int = 0) -> bool:
        """Is memory short, and does this sender (with `size` bytes more) have more than its part of it? Principals
        have equal parts, and within one of them its senders; what is within its part goes on, up to twice the limit."""
        limit = self._limits.max_uncommitted
        if self.uncommitted <= limit:
            return False
        senders = self._senders.get(principal, {})
        part = limit // (len(self._senders) * max(1, len(senders)))
        return senders.get(sender, 0) + size > part or self.uncommitted > 2 * limit

    def debt(self, principal: Hashable) -> BrokerError | None:
        """RATE_LIMITED with the seconds to wait when this principal published faster than it may."""
        bucket = self._buckets.get(principal)
        if bucket is None:
            return None
        seconds, which = bucket.wait(self.clock())
        if seconds <= 0:
            return None
        name, unit = (("publish_messages_per_second", "messages"), ("publish_bytes_per_second", "bytes"))[which]
        detail = f"{principal} may publish {self._rates[which]} {unit} a second; raise limits.{name}"
        self.limited.hit(name, str(principal), detail)
        return BrokerError(Code.RATE_LIMITED, detail, retry_after=seconds)

    def overload(self) -> BrokerError:
        """OVERLOADED, and a note that the limit was reached."""
        limit = self._limits.max_uncommitted
        detail = f"more than {limit} bytes wait for the disk; raise limits.max_uncommitted, or publish more slowly"
        self.limited.hit("max_uncommitted", "", detail)
        return BrokerError(Code.OVERLOADED, detail, retry_after=OVERLOADED_SECONDS)

    def pause(self, principal: Hashable, sender: Hashable) -> BrokerError | None:
        """Why this sender, whose unit was just taken, must not go on at once; None: it may."""
        if self._rates != (0, 0) and (error := self.debt(principal)) is not None:
            return error
        return self.overload() if self.crowded(principal, sender) else None

    def check(self, principal: Hashable, sender: Hashable, size: int = 0) -> None:
        """May about `size` bytes be taken now? Raises RATE_LIMITED, OVERLOADED."""
        if principal is None:
            return
        if self._rates != (0, 0) and (error := self.debt(principal)) is not None:
            raise error
        if self.crowded(principal, sender, size):
            raise self.overload()
