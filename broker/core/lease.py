"""Consumers of a queue, what they hold and until when, and the handing over. Floor 0."""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(slots=True)
class Handout:
    """Messages leased to one member; the caller delivers them."""

    member: Member
    offsets: list[int]
    lease: int
    rows: Sequence[Row] | None = None


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
