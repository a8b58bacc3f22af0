"""The stream machine: where one reader stands, and whether it is fed from the commits or must catch up.

A reader is LIVE when it has been handed everything that is committed; then each commit's rows go to it as they are.
When its credit does not cover them it falls BEHIND: from then on it is fed by reading the log, in its own time and
without harm to others, until a read reaches the end of the log and it is LIVE again. The switch happens in one step
of the loop, so no message falls between. Floor 0.
"""

from collections.abc import Sequence

from broker.core.lease import fitting
from broker.core.message import Row
from broker.core.subscription import Consumer, Delivery


class Reader:
    """One live reader of the log. `position`: everything that matches up to this offset has been handed over.

    A `passing` one also sees messages that enter no log, while it is live and has credit; and it is content with that,
    so that nothing is stored for its sake.
    """

    __slots__ = ("consumer", "credit", "filters", "live", "passing", "position", "reading", "room", "skipped")

    def __init__(self, consumer: Consumer, filters: Sequence[str], position: int, *, passing: bool = False) -> None:
        self.consumer = consumer
        self.filters = list(filters)
        self.passing = passing
        self.skipped = 0
        self.position = position
        self.credit = 0
        self.room = 0
        self.live = False
        self.reading = False  # a read of the log is under way for it

    @property
    def hungry(self) -> bool:
        """Should the log be read for it?"""
        return not self.live and not self.reading and self.credit > 0 and self.room > 0

    def publish(self, rows: Sequence[Row]) -> None:
        """Rows of the commit that match. A reader that is behind finds them in the log later; rows that are in none
        (offset 0) are gone for it then, and counted."""
        if rows[0][0] == 0:
            _show(self, rows, self.credit if self.live else 0)
            return
        if not self.live:
            return
        self.position = rows[0][0] - 1
        handed = self._hand(rows)
        if handed < len(rows):
            self.live = False

    def read(self, rows: Sequence[Row], scanned: int, end: int) -> None:
        """What a read of the log found: matching rows up to `scanned`; the log ends at `end` now."""
        handed = self._hand(rows)
        if handed == len(rows):
            self.position = max(self.position, scanned)
            self.live = self.position >= end

    def _hand(self, rows: Sequence[Row]) -> int:
        if not rows:
            return 0
        part: Sequence[Row] = rows if len(rows) <= self.credit else rows[: self.credit]
        part, size = fitting(part, self.room, self.room > 0)
        if part:
            self.credit -= len(part)
            self.room -= size
            self.position = part[-1][0]
            self.consumer.deliver(Delivery(part))
        return len(part)


class Tap:
    """A reader that keeps nothing: what exceeds its credit passes by, counted."""

    __slots__ = ("consumer", "credit", "room", "skipped")
    passing = True

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.credit = 0
        self.room = 0
        self.skipped = 0

    def publish(self, rows: Sequence[Row]) -> None:
        """Rows that pass."""
        _show(self, rows, self.credit)


def _show(reader: Reader | Tap, rows: Sequence[Row], credit: int) -> None:
    """Hand over as many of these as so much credit and the room allow; the others pass by, counted."""
    part, size = fitting(rows if len(rows) <= credit else rows[:credit], reader.room, False)
    reader.skipped += len(rows) - len(part)
    if part:
        reader.credit -= len(part)
        reader.room -= size
        reader.consumer.deliver(Delivery(part))
