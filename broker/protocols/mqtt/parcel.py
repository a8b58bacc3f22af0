"""What a sender has in hand: packets on their way, what is in flight, what waits, and what was asked for. Floor 4."""

from collections.abc import Callable
from typing import NamedTuple

from broker.core.message import Row
from broker.protocols.mqtt.filters import Wanted
from broker.protocols.mqtt.tie import Tie

Token = tuple[Tie, int] | tuple[None, Row]
"""What is in flight: the tie that brought it and its offset; or a retained message, which no tie brings again."""
Waiting = tuple[Tie, Row, None] | tuple[None, Row, Wanted]
"""What no identifier is free for; of a retained message also how it was asked for."""


class Asked(NamedTuple):
    """What is retained is wanted by this filter. `find` looks it up, but what has expired by then (unix ms). What came
    into the log later, at `end` or behind it, comes by the subscription. `topics`: of these alone."""

    filter: str
    find: Callable[[str, int], list[Row]]
    wanted: Wanted
    end: int
    topics: frozenset[str] | None = None

    def rows(self, now: int) -> list[Row]:
        """What there is."""
        topics = self.topics
        found = [row for row in self.find(self.filter, now) if row[0] < self.end]
        return found if topics is None else [row for row in found if row[1] in topics]


class Parcel:
    """What goes out in one write, in pieces. `kept`: identifier and offset of those of QoS 2 that are committed before,
    without the offset where no queue would bring them again; `done`: offsets of what the client has, or never will."""

    __slots__ = ("done", "kept", "out")

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.kept: list[tuple[int, int | None]] = []
        self.done: list[int] = []
