"""Which queues have something to do by time, soonest first: a heap that is put right as it is read. Floor 2."""

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from broker.engine.sqlite.handles import QueueHandle


class Alarms:
    """`touch` a queue when its deadlines may have changed; `ringing` yields those whose time has come."""

    def __init__(self) -> None:
        self._touched: set[QueueHandle] = set()
        self._heap: list[tuple[float, int, QueueHandle]] = []
        self._set: dict[QueueHandle, float] = {}
        self._tie = count()

    def touch(self, handle: QueueHandle) -> None:
        """Look at it at the next tick."""
        self._touched.add(handle)

    def forget(self, handle: QueueHandle) -> None:
        """It is gone."""
        self._touched.discard(handle)
        self._set.pop(handle, None)

    def ringing(self, now: float, wall: int) -> Iterator[QueueHandle]:
        """Queues whose deadline has come (`now`: monotonic seconds, `wall`: unix ms); each is looked at again next
        time."""
        touched, self._touched = self._touched, set()
        for handle in touched:
            self._arm(handle, now, wall)
        while self._heap and self._heap[0][0] <= now:
            at, _, handle = heappop(self._heap)
            if self._set.get(handle) == at:
                del self._set[handle]
                self._touched.add(handle)
                yield handle

    def _arm(self, handle: QueueHandle, now: float, wall: int) -> None:
        at = handle.queue.deadline(now, wall)
        known = self._set.get(handle)
        if at is not None and (known is None or at < known):
            self._set[handle] = at
            heappush(self._heap, (at, next(self._tie), handle))
