"""A reader on behalf of a client: how much it is handed, and what becomes of one that reads too slowly.

A client is behind when its socket is full or the credit it gave is used up. Then, by its own choice, it waits (the log
is read for it later and nothing is lost), is told and dropped, or is handed only the latest message of each topic and
key and told how many were left out. Nothing is left out silently. No sockets here. Floor 4.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

from broker.core.errors import BrokerError, Code
from broker.core.lease import size_of
from broker.core.message import KEYED, Row, unpack_meta
from broker.core.subscription import Delivery, Outcome
from broker.engine.base import Attachment

WINDOW_MESSAGES = 1_000
WINDOW_BYTES = 256 << 10
"""What the engine may hand over ahead of the client's reading."""
KEPT_MESSAGES = 10_000
KEPT_BYTES = 1 << 20
"""What is kept for a thinned reader that is behind; beyond that it waits, and the log is read for it later."""
UNLIMITED = 1 << 60


class Slow(StrEnum):
    """What becomes of a reader that is behind; see the module."""

    WAIT = "wait"
    DROP = "drop"
    THIN = "thin"

    @classmethod
    def of(cls, text: object) -> "Slow":
        """Raises BAD_OPTION."""
        for policy in cls:
            if policy == text:
                return policy
        raise BrokerError(Code.BAD_OPTION, f"slow must be {', '.join(cls)}, not {text!r}")


class Line(Protocol):
    """The way to the client."""

    @property
    def full(self) -> bool:
        """The client does not read as fast as we write."""

    def hand(self, delivery: Delivery) -> None:
        """Write these messages."""

    def thinned(self, left_out: int, offset: int) -> None:
        """Write that so many messages up to `offset` were left out."""

    def ended(self, error: BrokerError | None) -> None:
        """Nothing more comes, for this reason; None: the client wished it."""


class Kept:
    """The latest message of each topic and key, oldest first."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str | None], Row] = {}
        self.size = 0
        self.left_out = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        """No more should come before some are taken."""
        return self.size > KEPT_BYTES or len(self._rows) > KEPT_MESSAGES

    def add(self, rows: Sequence[Row]) -> None:
        """Each takes the place of what it makes old."""
        for row in rows:
            subject = (row[1], _key(row))
            old = self._rows.pop(subject, None)
            if old is not None:
                self.left_out += 1
                self.size -= len(old[4])
            self._rows[subject] = row
            self.size += len(row[4])

    def take(self, count: int) -> list[Row]:
        """The oldest ones, in the order of the log."""
        subjects = list(self._rows)[:count]
        rows = [self._rows.pop(subject) for subject in subjects]
        self.size -= size_of(rows)
        return rows


def _key(row: Row) -> str | None:
    meta = row[3]
    return unpack_meta(meta).get("key") if meta is not None and meta[0] & KEYED else None


class Follower:
    """A Consumer of the engine's; see the module.

    `credit`: messages that the client takes before it grants more. `patience`: ms that a reader with `slow=drop` may
    be behind once it had caught up; `wall` gives unix seconds. `position`: up to this offset the client was handed all
    that it gets.
    """

    def __init__(
        self, line: Line, slow: Slow, *, patience: int, wall: Callable[[], float], credit: int = UNLIMITED
    ) -> None:
        self._line = line
        self._kept = Kept() if slow is Slow.THIN else None
        self._drops = slow is Slow.DROP
        self._patience = patience
        self._wall = wall
        self._credit = credit
        self._caught_up = False
        self._dropped = False
        self._open_messages = 0  # granted to the engine and not yet delivered
        self._open_bytes = 0
        self._granting = False
        self._attachment: Attachment | None = None
        self.position = 0

    # Of the client

    def begin(self, attachment: Attachment) -> None:
        """Let messages come."""
        self._attachment = attachment
        self.position = attachment.position
        self._top_up()

    def grant(self, messages: int) -> None:
        """The client takes so many more."""
        self._credit = min(self._credit + messages, UNLIMITED)
        self.go_on()

    def go_on(self) -> None:
        """The client has read, or granted credit."""
        if self._kept is not None:
            self._hand_kept(self._kept)
        self._top_up_soon()

    def stalled(self) -> None:
        """The client read nothing for as long as the patience lasts."""
        if self._drops:
            self._drop()

    def settle(
        self, outcome: Outcome, offsets: Sequence[int], delay: int | None = None, error: str | None = None
    ) -> Sequence[int]:
        """See `Attachment.settle`; after the end all comes too late."""
        return offsets if self._attachment is None else self._attachment.settle(outcome, offsets, delay, error)

    def extend(self, offsets: Sequence[int], duration: int) -> Sequence[int]:
        """See `Attachment.extend`; likewise."""
        return offsets if self._attachment is None else self._attachment.extend(offsets, duration)

    def end(self, error: BrokerError | None = None) -> None:
        """Let go of the subscription and tell the client why; once is enough."""
        if self._attachment is not None:
            self.close()
            self._line.ended(error)

    def close(self) -> None:
        """Let go and tell nobody: the client is gone."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.detach()

    # Of the engine

    def deliver(self, delivery: Delivery) -> None:
        """Write them, keep them, or drop the reader; credit comes back as soon as the client reads."""
        rows = delivery.rows
        self._open_messages -= len(rows)
        self._open_bytes -= size_of(rows)
        if self._drops and self._is_late(rows[0]):
            return
        if self._kept is not None and (self._kept or self._line.full or len(rows) > self._credit):
            self._kept.add(rows)
            self._hand_kept(self._kept)
        else:
            self._hand(delivery)
        if self._open_messages < WINDOW_MESSAGES // 2 or self._open_bytes < WINDOW_BYTES // 2:
            self._top_up_soon()

    def detached(self, error: BrokerError) -> None:
        """The engine let go of this reader."""
        self._attachment = None
        self._line.ended(error)

    # Within

    def _is_late(self, row: Row) -> bool:
        """Is it to be dropped? Then nothing more is written, so that its position stays true."""
        late = self._wall() * 1000 - row[2] > self._patience
        self._caught_up = self._caught_up or not late
        if late and self._caught_up and not self._dropped:
            self._dropped = True
            asyncio.get_running_loop().call_soon(self._drop)  # not from within the engine's own call
        return self._dropped

    def _drop(self) -> None:
        self.end(BrokerError(Code.SLOW_READER, f"you were more than {self._patience / 1000:g} s behind"))

    def _hand(self, delivery: Delivery) -> None:
        self._credit -= len(delivery.rows)
        self.position = delivery.rows[-1][0]
        self._line.hand(delivery)

    def _hand_kept(self, kept: Kept) -> None:
        while kept and self._credit > 0 and not self._line.full:
            rows = kept.take(min(self._credit, WINDOW_MESSAGES))
            if kept.left_out:
                self._line.thinned(kept.left_out, rows[-1][0])
                kept.left_out = 0
            self._hand(Delivery(rows))

    def _top_up_soon(self) -> None:
        """Not from within the engine's own call: what is granted may be delivered in the same breath."""
        if not self._granting:
            self._granting = True
            asyncio.get_running_loop().call_soon(self._top_up)

    def _top_up(self) -> None:
        self._granting = False
        if self._attachment is None or (self._line.full if self._kept is None else self._kept.full):
            return
        most = WINDOW_MESSAGES if self._kept is not None else min(self._credit, WINDOW_MESSAGES)
        messages, size = max(most - self._open_messages, 0), max(WINDOW_BYTES - self._open_bytes, 0)
        if messages or size:
            self._open_messages += messages
            self._open_bytes += size
            self._attachment.grant(messages, size)
