"""Consumers of a queue, what they hold and until when, and the handing over. Floor 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyroaring import BitMap64

from broker.core.message import Row
from broker.core.subscription import Consumer


class Lease:
    """One hand-over: its number and when it runs out (monotonic seconds)."""

    __slots__ = ("deadline", "number")

    def __init__(self, number: int, deadline: float) -> None:
        self.number = number
        self.deadline = deadline


class Member:
    """A consumer as the machine sees it."""

    __slots__ = ("consumer", "credit", "leased", "room", "started", "wants")

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.credit = 0  # messages
        self.room = 0  # bytes
        self.wants = 0  # bytes of the message that did not fit into them
        self.leased: dict[int, Lease] = {}
        self.started: set[int] = set()

    def release(self, offsets: Iterable[int]) -> list[int]:
        """Take these out of its hands; returns those that were in them."""
        pop = self.leased.pop
        mine = [offset for offset in offsets if pop(offset, None) is not None]
        if self.started:
            self.started.difference_update(mine)
        return mine


@dataclass(slots=True)
class Handout:
    """Messages leased to one member; the caller delivers them."""

    member: Member
    offsets: list[int]
    lease: int
    rows: Sequence[Row] | None = None


class Leases:
    """The consumers of a queue and what is in whose hands. `base` makes the numbers of leases differ from those before
    a restart."""

    def __init__(self, base: int) -> None:
        self.members: list[Member] = []
        self.soonest: float | None = None
        """No lease runs out before this."""
        self._number = base
        self._turn = 0

    def __len__(self) -> int:
        """How many messages are in hand."""
        return sum(len(member.leased) for member in self.members)

    def holder(self, offset: int) -> Member | None:
        """Whose hands a message is in."""
        for member in self.members:
            if offset in member.leased:
                return member
        return None

    def held(self) -> BitMap64:
        """All that is in hand."""
        held = BitMap64()
        for member in self.members:
            held.update(member.leased)
        return held

    def eager(self, single: bool) -> list[Member]:
        """Who may be served (`single`: the first alone) and has credit left."""
        members = self.members[:1] if single else self.members
        return [m for m in members if m.credit > 0 and m.room > 0 and (m.room >= m.wants or not m.leased)]

    def in_turn(self, single: bool) -> list[Member]:
        """The same, another first each time."""
        eager = self.eager(single)
        self._turn += 1
        first = self._turn % len(eager) if eager else 0
        return eager[first:] + eager[:first]

    def lease(self, member: Member, offsets: Sequence[int], deadline: float) -> int:
        """Put these into a member's hands; the number of the lease."""
        self._number += 1
        member.leased.update(dict.fromkeys(offsets, Lease(self._number, deadline)))
        member.credit -= len(offsets)
        if self.soonest is None or deadline < self.soonest:
            self.soonest = deadline
        return self._number

    def extend(self, member: Member, offsets: Sequence[int], deadline: float) -> list[int]:
        """Let the leases of these run out then; returns those that are not in the member's hands."""
        lost: list[int] = []
        for offset in offsets:
            lease = member.leased.get(offset)
            if lease is None:
                lost.append(offset)
                continue
            member.leased[offset] = Lease(lease.number, deadline)
        if self.soonest is not None:
            self.soonest = min(self.soonest, deadline)
        return lost

    def run_out(self, now: float) -> list[int]:
        """What is out of its holder's hands, because its lease ran out."""
        ended: list[int] = []
        if self.soonest is None or self.soonest > now:
            return ended
        self.soonest = None
        for member in self.members:
            ended += member.release([o for o, lease in member.leased.items() if lease.deadline <= now])
            if member.leased:
                soonest = min(lease.deadline for lease in member.leased.values())
                self.soonest = soonest if self.soonest is None else min(self.soonest, soonest)
        return ended


def size_of(rows: Sequence[Row]) -> int:
    """Bytes of their bodies."""
    return sum([len(row[4]) for row in rows])


def fitting(rows: Sequence[Row], room: int, alone: bool) -> tuple[Sequence[Row], int]:
    """The rows from the front whose bodies fit into `room` bytes, and their size; when none does and the consumer
    holds nothing (`alone`), the first all the same."""
    size = size_of(rows)
    if size <= room:
        return rows, size
    size = 0
    for count, row in enumerate(rows):
        if size + len(row[4]) > room and not (alone and count == 0):
            return rows[:count], size
        size += len(row[4])
    return rows, size
