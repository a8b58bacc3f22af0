"""Units that wait for room in a queue whose policy is `block`, and all that their senders hand in after them.

What a sender hands in is committed and answered in its order, so that whatever comes after a unit that waits, waits
too. Settles alone go on: they may be what makes room. Nobody waits for longer than the engine's `block_timeout`: then
a queue that is still full is a refusal, as it is with the policy `refuse`. Floor 2.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

from broker.engine.base import Unit
from broker.engine.sqlite.handles import QueueHandle


@dataclass(frozen=True, slots=True)
class Room:
    """What a unit needs: room in this queue for so many messages and bytes."""

    handle: QueueHandle
    messages: int
    size: int


@dataclass(slots=True)
class _Held:
    unit: Unit
    until: float  # monotonic seconds
    room: Room | None  # None: it waits for its turn


class Blocked:
    """See the module. `capped`: the queues that may be full, by name."""

    def __init__(self, capped: Mapping[str, QueueHandle]) -> None:
        self._capped = capped
        self._senders: dict[Hashable, deque[_Held]] = {}

    def __len__(self) -> int:
        """How many units wait."""
        return sum(map(len, self._senders.values()))

    def __iter__(self) -> Iterator[Unit]:
        for waiting in self._senders.values():
            for held in waiting:
                yield held.unit

    def concerns(self, unit: Unit) -> bool:
        """Must it wait for what its sender handed in before?"""
        settles_alone = unit.settles and not (unit.publishes or unit.schedules or unit.sets)
        return not settles_alone and unit.sender in self._senders

    def hold(self, unit: Unit, until: float, room: Room | None) -> None:
        """It waits, until then at most."""
        self._senders.setdefault(unit.sender, deque()).append(_Held(unit, until, room))

    def ready(self, now: float) -> bool:
        """Would `retry` find something to do?"""
        return any(self._may_go(waiting[0], now) for waiting in self._senders.values())

    def clear(self) -> None:
        """None waits any more."""
        self._senders.clear()

    def retry(self, now: float, take: Callable[[Unit, bool], Room | None], limit: int) -> list[Unit]:
        """Let `take` (the unit, may it wait longer) try those that may go, of about `limit` bytes; it says what one
        still has to wait for. Returns those that wait no more."""
        freed: list[Unit] = []
        size = 0
        for sender, waiting in list(self._senders.items()):
            while waiting and size < limit and self._may_go(held := waiting[0], now):
                held.room = take(held.unit, now < held.until)
                if held.room is not None:
                    break
                size += held.unit.weight()
                freed.append(waiting.popleft().unit)
            if not waiting:
                del self._senders[sender]
        return freed

    def _may_go(self, held: _Held, now: float) -> bool:
        return held.room is None or now >= held.until or not self._lacking(held.room)

    def _lacking(self, room: Room) -> bool:
        """Is there still no room? A queue that is gone needs none."""
        handle = room.handle
        return self._capped.get(handle.spec.name) is handle and handle.queue.full(room.messages, room.size)
