"""Messages that leave together under consecutive sequences, and who waits for what becomes of each. Pure."""

from collections.abc import Sequence
from typing import Any, Protocol

from postroom_client import wire
from postroom_client.errors import PartlyRefused, PostroomError
from postroom_client.receipt import Receipt

Draft = tuple[Any, ...]
"""`(topic, body)` or `(topic, body, options)` as PUBLISH carries it; of a unit, its map in a tuple of one."""


class Waiter(Protocol):
    """What hears the end of a publish: an asyncio.Future, or anything that behaves so."""

    def done(self) -> bool:
        """Has it heard, or ceased to wait?"""

    def set_result(self, result: Any, /) -> None:
        """It went well."""

    def set_exception(self, exception: BaseException, /) -> None:
        """It did not."""


class Group:
    """Collects the answers for messages published together and tells one waiter once all are there."""

    __slots__ = ("failed", "left", "results", "waiter")

    def __init__(self, waiter: Waiter, count: int) -> None:
        self.waiter = waiter
        self.results: list[Receipt | PostroomError | None] = [None] * count
        self.left = count
        self.failed = 0

    def put(self, index: int, result: Receipt | PostroomError) -> None:
        """Message `index` has been answered."""
        self.results[index] = result
        self.left -= 1
        if isinstance(result, PostroomError):
            self.failed += 1
        if self.left == 0 and not self.waiter.done():
            self._finish()

    def _finish(self) -> None:
        first = self.results[0]
        if not self.failed:
            self.waiter.set_result(self.results)
        elif isinstance(first, PostroomError) and all(result is first for result in self.results):
            self.waiter.set_exception(first)
        else:
            self.waiter.set_exception(PartlyRefused(self.results))


class Batch:
    """`messages[i]` has sequence `first + i`; it is None once it was refused. `next` counts those answered from the
    front. `waiters[i]` is a Waiter, or the message's index in `group`. A unit is a batch of one."""

    __slots__ = ("atomic", "first", "group", "messages", "next", "size", "unit", "waiters")

    def __init__(self, group: Group | None = None, *, atomic: bool = False, unit: bool = False) -> None:
        self.messages: list[Draft | None] = []
        self.waiters: list[Any] = []
        self.group = group
        self.atomic = atomic
        self.unit = unit
        self.first = 0
        self.next = 0
        self.size = 0

    def pack(self) -> bytes:
        """The frame. Raises what msgpack raises for values without a form on the wire."""
        if self.unit:
            return wire.pack((wire.UNIT, self.first, self.messages[0][0]))  # type: ignore[index]
        if self.atomic:
            return wire.pack((wire.PUBLISH, self.first, self.messages, wire.ATOMIC))
        return wire.pack((wire.PUBLISH, self.first, self.messages))

    def given(self, index: int) -> str | None:
        """The id that the publisher gave message `index`."""
        draft = self.messages[index]
        if draft is None or len(draft) < 3:
            return None
        given: str | None = draft[2].get("id")
        return given

    def answer(self, index: int, result: Receipt | PostroomError) -> None:
        """Tell whoever waits for message `index`."""
        waiter = self.waiters[index]
        if self.group is not None:
            self.group.put(waiter, result)
        elif waiter.done():
            return
        elif isinstance(result, Receipt):
            waiter.set_result(result)
        else:
            waiter.set_exception(result)

    def stored(self, start: int, end: int, offset: int, at: int, epoch: str) -> None:
        """Messages `start` to `end` (exclusive) have the offsets from `offset`. On the path of every message."""
        messages, waiters, group = self.messages, self.waiters, self.group
        for index in range(start, end):
            draft = messages[index]
            if draft is None:
                continue
            given = draft[2].get("id") if len(draft) == 3 else None
            receipt = Receipt(offset + index - start, at, epoch, given)
            waiter = waiters[index]
            if group is not None:
                group.put(waiter, receipt)
            elif not waiter.done():
                waiter.set_result(receipt)

    def open(self, start: int) -> list[int]:
        """Indexes from `start` that are not answered."""
        return [i for i in range(max(start, self.next), len(self.messages)) if self.messages[i] is not None]

    def part(self, indexes: Sequence[int]) -> "Batch":
        """A batch of these messages alone."""
        batch = Batch(self.group, atomic=self.atomic, unit=self.unit)
        batch.messages = [self.messages[i] for i in indexes]
        batch.waiters = [self.waiters[i] for i in indexes]
        batch.size = sum(draft_size(draft) for draft in batch.messages)
        return batch


def draft_size(draft: Draft | None) -> int:
    """About how many bytes a message takes on the wire."""
    if draft is None or len(draft) == 1:
        return 64
    size = len(draft[0]) + len(draft[1]) + 24
    if len(draft) == 3:
        size += 64 + sum(len(k) + len(v) for k, v in draft[2].get("headers", {}).items())
    return size
