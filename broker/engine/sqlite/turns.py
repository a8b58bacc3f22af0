"""Whose units go into the next transaction when not all fit: principals in turn, and within one of them its senders.

Turns are counted in bytes and remembered as long as there is a backlog, so that one who sends little is served in the
next transaction, however many connections another one floods from and however large its messages are. Floor 2.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from heapq import heapify, heappop, heapreplace

from broker.engine.base import Unit

UNIT_BYTES = 256
"""What a unit weighs in its sender's account beside all it carries, so that a flood of empty ones counts."""


class Turns:
    """See the module. `clear` when everything fitted: nobody waits, nobody has had more than another."""

    def __init__(self) -> None:
        self._principals = _Accounts()
        self._senders: dict[Hashable, _Accounts] = {}

    def clear(self) -> None:
        """Forget who had how much."""
        self._principals.clear()
        self._senders.clear()

    def take(self, pending: Sequence[Unit], limit: int) -> list[Unit]:
        """Units of at most `limit` bytes, or one that is larger; those of one sender in their order."""
        queues: dict[Hashable, deque[Unit]] = {}
        for unit in pending:
            queues.setdefault(unit.sender, deque()).append(unit)
        senders: dict[Hashable, list[Hashable]] = {}
        for sender, queue in queues.items():
            senders.setdefault(queue[0].principal, []).append(sender)
        self._senders = {p: self._senders.get(p) or _Accounts() for p in senders}
        rounds = {p: self._senders[p].open(found) for p, found in senders.items()}
        turn = self._principals.open(senders)
        taken: list[Unit] = []
        size = 0
        while turn:
            principal = turn[0][2]
            inner = rounds[principal]
            queue = queues[inner[0][2]]
            weight = queue[0].weight()
            if taken and size + weight > limit:
                break
            taken.append(queue.popleft())
            size += weight
            self._senders[principal].charge(inner, weight + UNIT_BYTES, more=bool(queue))
            self._principals.charge(turn, weight + UNIT_BYTES, more=bool(inner))
        return taken


_Round = list[tuple[int, int, Hashable]]
"""A heap of (bytes had, order of arrival, name)."""


class _Accounts(dict[Hashable, int]):
    """What each has had. Who comes anew begins level with the one who had least: neither ahead nor behind."""

    def open(self, names: Iterable[Hashable]) -> _Round:
        """Those who wait now, as a heap; others are forgotten."""
        waiting = list(names)
        level = min((self[name] for name in waiting if name in self), default=0)
        had = {name: self.get(name, level) for name in waiting}
        self.clear()
        self.update(had)
        found: _Round = [(had[name], i, name) for i, name in enumerate(waiting)]
        heapify(found)
        return found

    def charge(self, found: _Round, weight: int, *, more: bool) -> None:
        """The first of the heap was served; `more`: it has more to send."""
        had, order, name = found[0]
        self[name] = had + weight
        if more:
            heapreplace(found, (had + weight, order, name))
        else:
            heappop(found)
