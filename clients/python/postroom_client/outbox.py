"""The publisher's side of *Publishing exactly once* (PROTOCOL.md): what is published and not yet confirmed.

Messages get their sequences when they leave. After a lost connection the broker names the last sequence it has
committed; what that covers is confirmed, the rest leaves again under the same numbers. Pure: bytes out, frames in;
waiters are told, nobody is awaited.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from postroom_client.batch import Batch, Draft, Group, Waiter, draft_size
from postroom_client.errors import PostroomError
from postroom_client.receipt import Receipt

BATCH_MESSAGES = 4096
BATCH_BYTES = 1 << 20

Run = tuple[int, int, int, int]
"""(sequence, count, offset, at) of CONFIRM."""


class Outbox:
    """`limit` messages and `limit_bytes` may be unconfirmed; the caller asks `full` before it adds."""

    def __init__(self, limit: int = BATCH_MESSAGES, limit_bytes: int = 32 << 20) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.count = 0
        self.size = 0
        self.epoch = ""
        self.max_frame = 8 << 20
        self.max_batch = BATCH_MESSAGES
        self.batch_bytes = BATCH_BYTES
        self._sequence = 1  # of the next message that leaves
        self._filling: Batch | None = None
        self._unsent: deque[Batch] = deque()
        self._sent: deque[Batch] = deque()
        self._again: list[Batch] = []

    # What goes in

    @property
    def full(self) -> bool:
        """No room for one more message until something is confirmed."""
        return self.count >= self.limit or self.size >= self.limit_bytes

    @property
    def waiting(self) -> bool:
        """Is there something to send?"""
        return bool(self._unsent)

    @property
    def underway(self) -> bool:
        """Was something sent that is not answered?"""
        return bool(self._sent)

    def add(self, draft: Draft, waiter: Waiter) -> None:
        """Publish one message; those of one turn leave in one frame. On the path of every message."""
        size = len(draft[0]) + len(draft[1]) + 24 if len(draft) == 2 else draft_size(draft)
        batch = self._filling
        if batch is None or len(batch.messages) >= self.max_batch or batch.size + size > self.batch_bytes:
            batch = self._filling = Batch()
            self._unsent.append(batch)
        batch.messages.append(draft)
        batch.waiters.append(waiter)
        batch.size += size
        self.count += 1
        self.size += size

    def add_group(self, drafts: Sequence[Draft], group: Group, base: int, *, atomic: bool = False) -> None:
        """Publish messages that share one waiter; draft i is number `base + i` of the group."""
        batch = Batch(group, atomic=atomic)
        batch.messages = list(drafts)
        batch.waiters = list(range(base, base + len(drafts)))
        batch.size = sum([draft_size(draft) for draft in drafts])
        self._append(batch)

    def add_unit(self, unit: dict[str, Any], size: int, waiter: Waiter) -> None:
        """One transaction: it takes one sequence."""
        batch = Batch(unit=True)
        batch.messages, batch.waiters, batch.size = [(unit,)], [waiter], size
        self._append(batch)

    def _append(self, batch: Batch) -> None:
        self._filling = None
        self._unsent.append(batch)
        self.count += len(batch.messages)
        self.size += batch.size

    def batch_end(self, drafts: Sequence[Draft], start: int) -> int:
        """How far from `start` a batch may reach so that it fits into one frame."""
        size, end = 0, start
        stop = min(len(drafts), start + self.max_batch)
        while end < stop:
            size += draft_size(drafts[end])
            if size > self.batch_bytes and end > start:
                break
            end += 1
        return end

    # What goes out

    def frames(self) -> list[bytes]:
        """Number what has not left, and pack it."""
        out: list[bytes] = []
        self._filling = None
        while self._unsent:
            batch = self._unsent.popleft()
            batch.first = self._sequence
            packed = self._packed(batch)
            if packed is not None:
                self._sequence += len(batch.messages)
                self._sent.append(batch)
                out.append(packed)
        return out

    def _packed(self, batch: Batch) -> bytes | None:
        """None: it left nothing to send, or was split and put back."""
        try:
            packed = batch.pack()
        except (ValueError, TypeError, OverflowError) as error:
            self._drop_unpackable(batch, error)
            return None
        if len(packed) <= self.max_frame + 4:
            return packed
        count = len(batch.messages)
        if count == 1 or batch.atomic:
            text = f"it takes a frame of {len(packed)} bytes, the limit is {self.max_frame}; send less at once"
            self._fail(batch, PostroomError("frame_too_large", text))
        else:
            self._put_back(batch, range(count // 2), range(count // 2, count))
        return None

    def _put_back(self, batch: Batch, *parts: Sequence[int]) -> None:
        for part in reversed(parts):
            if part:
                self._unsent.appendleft(batch.part(part))

    def _drop_unpackable(self, batch: Batch, error: Exception) -> None:
        refused = PostroomError("bad_message", f"it has no form on the wire: {error}")
        if batch.atomic or batch.unit:
            self._fail(batch, refused)
            return
        good = [i for i in range(len(batch.messages)) if _packable(batch.part([i]))]
        for i in set(range(len(batch.messages))).difference(good):
            self._drop(batch, i)
            batch.answer(i, refused)
        self._put_back(batch, good)

    def _fail(self, batch: Batch, error: PostroomError) -> None:
        for i in batch.open(0):
            self._drop(batch, i)
            batch.answer(i, error)

    def _drop(self, batch: Batch, index: int) -> None:
        self.count -= 1
        self.size -= batch.size if batch.unit else draft_size(batch.messages[index])

    # What the broker answers

    def welcome(self, sequence: int, epoch: str, refused: Iterable[tuple[int, int, str]] = ()) -> None:
        """A new connection: all up to `sequence` is on disk but what was `refused`; the rest is to leave again.

        The numbers come out as they were, unless a refused message among them leaves a gap, or the broker lost what
        it had once confirmed (a restored disk): then what it does not have takes the numbers that it expects.
        """
        self.epoch = epoch
        for first, count, code, *_ in refused:
            self.refuse(first, count, PostroomError(code, "the broker's reason was lost with the connection"))
        unsent, self._unsent, self._filling = self._unsent, deque(), None
        for batch in (*self._again, *self._sent):
            covered = max(0, sequence - batch.first + 1) if batch.first else 0
            for i in [i for i in batch.open(0) if i < covered]:
                self._drop(batch, i)
                batch.answer(i, Receipt(None, None, epoch, None if batch.unit else batch.given(i)))
            self._put_back_last(batch, batch.open(covered))
        self._again.clear()
        self._sent.clear()
        self._unsent.extend(unsent)
        self._sequence = sequence + 1

    def _put_back_last(self, batch: Batch, indexes: list[int]) -> None:
        if indexes:
            part = batch.part(indexes)
            part.size = batch.size if batch.unit else part.size
            self._unsent.append(part)

    def confirm(self, upto: int, runs: Iterable[Run], duplicates: Iterable[tuple[int, int]]) -> None:
        """CONFIRM: everything up to `upto` is on disk, but what was refused."""
        places = _Places(runs, duplicates, self.epoch)
        while self._sent:
            batch = self._sent[0]
            end = min(upto - batch.first + 1, len(batch.messages))
            if end > batch.next:
                places.answer(batch, batch.next, end)
                self._advance(batch, end)
            if batch.next < len(batch.messages):
                return
            self._sent.popleft()

    def _advance(self, batch: Batch, end: int) -> None:
        if end - batch.next == len(batch.messages) and None not in batch.messages:
            self.count -= end
            self.size -= batch.size
        else:
            for i in range(batch.next, end):
                if batch.messages[i] is not None:
                    self._drop(batch, i)
        batch.next = end

    def refuse(self, sequence: int, count: int, error: PostroomError) -> None:
        """REFUSE: these were not done. What a stopping broker refuses leaves again on the next connection."""
        for batch in self._sent:
            start = max(batch.next, sequence - batch.first)
            end = min(len(batch.messages), sequence + count - batch.first)
            for i in range(start, end):
                if batch.messages[i] is not None:
                    self._refuse_one(batch, i, error)
        while self._sent and not self._sent[0].open(0):
            self._sent.popleft()

    def _refuse_one(self, batch: Batch, index: int, error: PostroomError) -> None:
        if error.code == "shutting_down":
            part = batch.part([index])
            part.size = batch.size if batch.unit else part.size
            self._again.append(part)
        else:
            self._drop(batch, index)
            batch.answer(index, error)
        batch.messages[index] = None

    def abandon(self, error: PostroomError) -> None:
        """The client ends: tell everybody who still waits."""
        for batch in (*self._again, *self._sent, *self._unsent):
            self._fail(batch, error)
        self._again.clear()
        self._sent.clear()
        self._unsent.clear()
        self._filling = None


class _Places:
    """Walks the runs of one CONFIRM beside the batches, both in order of sequence."""

    def __init__(self, runs: Iterable[Run], duplicates: Iterable[tuple[int, int]], epoch: str) -> None:
        self._runs = sorted(runs)
        self._duplicates = dict(duplicates)
        self._epoch = epoch
        self._at = 0

    def answer(self, batch: Batch, start: int, end: int) -> None:
        """Tell the waiters of messages `start` to `end` (exclusive)."""
        runs, first = self._runs, batch.first
        while start < end:
            sequence = first + start
            while self._at < len(runs) and runs[self._at][0] + runs[self._at][1] <= sequence:
                self._at += 1
            if self._at < len(runs) and runs[self._at][0] <= sequence:
                begin, count, offset, at = runs[self._at]
                stop = min(end, begin + count - first)
                batch.stored(start, stop, offset + sequence - begin, at, self._epoch)
            else:
                stop = start + 1
                self._answer_elsewhere(batch, start, self._duplicates.get(sequence))
            start = stop

    def _answer_elsewhere(self, batch: Batch, index: int, earlier: int | None) -> None:
        """A duplicate (of a message at `earlier`, -1: it still waits), or one that went to the schedule."""
        if batch.messages[index] is not None:
            offset = earlier if earlier is not None and earlier >= 0 else None
            given = None if batch.unit else batch.given(index)
            batch.answer(index, Receipt(offset, None, self._epoch, given, earlier is not None))


def _packable(batch: Batch) -> bool:
    try:
        batch.pack()
    except (ValueError, TypeError, OverflowError):
        return False
    return True
