"""The order of handing out, over the whole backlog: lanes of priority, and in each lane, buckets of keys.

Everything is a bitmap of offsets, so that a million waiting messages cost kilobytes. A lane without keys is one
bucket. With keys it has up to 1,024, by hash: in a fair queue the buckets take turns; otherwise the bucket with the
oldest head goes first, and the buckets only serve to get past a busy key quickly. Floor 0.
"""

from collections.abc import Callable
from heapq import heappop, heappush

from pyroaring import BitMap64

BUCKETS = 1_024
MAX_SKIPS = 4_096
"""How many messages of busy keys one call sets aside at most; the rest is for the next call."""
MAX_RUN = 256
"""And how many of one bucket before the others have their turn."""


class Lane:
    """The ready messages of one priority. `more`: the last `take` ended early, another may find some."""

    more = False

    def __init__(self) -> None:
        self.offsets = BitMap64()

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, offset: int, bucket: int) -> None:
        """Make one message ready."""
        self.offsets.add(offset)

    def discard(self, offset: int, bucket: int) -> None:
        """Take one out if it is there."""
        self.offsets.discard(offset)

    def take(self, count: int, admit: Callable[[int], bool] | None) -> list[int]:
        """Take up to `count` in order."""
        part = self.offsets[:count]
        self.offsets -= part
        return list(part)


class KeyedLane(Lane):
    """A lane whose buckets take turns (`fair`) or go by their oldest message."""

    def __init__(self, fair: bool) -> None:
        super().__init__()
        self._fair = fair
        self._buckets: dict[int, BitMap64] = {}
        self._turns: list[tuple[int, int]] = []  # heap of (turn or head offset, bucket)
        self._place: dict[int, int] = {}  # bucket -> its one valid entry of the heap; others are stale
        self._turn = 0

    def add(self, offset: int, bucket: int) -> None:
        """Make one message ready."""
        self.offsets.add(offset)
        members = self._buckets.get(bucket)
        if members is None:
            self._buckets[bucket] = BitMap64((offset,))
            self._enter(bucket, offset)
            return
        if not self._fair and offset < members[0]:
            self._enter(bucket, offset)
        members.add(offset)

    def _enter(self, bucket: int, head: int) -> None:
        self._turn += 1
        self._place[bucket] = place = self._turn if self._fair else head
        heappush(self._turns, (place, bucket))

    def discard(self, offset: int, bucket: int) -> None:
        """Take one out if it is there."""
        self.offsets.discard(offset)
        members = self._buckets.get(bucket)
        if members is not None:
            members.discard(offset)
            if not members:
                del self._buckets[bucket], self._place[bucket]

    def take(self, count: int, admit: Callable[[int], bool] | None) -> list[int]:
        """Take up to `count`; one that `admit` turns away leaves the lane too (its key is busy: the machine keeps
        it). A bucket full of such messages lets the others go first."""
        taken: list[int] = []
        deferred: list[int] = []
        skips = 0
        while len(taken) < count and skips < MAX_SKIPS:
            bucket = self._pop_bucket()
            if bucket is None:
                if not deferred:
                    break
                self._enter_all(deferred)
                continue
            head, turned_away = self._pop_head(bucket, admit)
            skips += turned_away
            if head is None:
                deferred.append(bucket)
            else:
                taken.append(head)
                self._enter_all([bucket])
        self._enter_all(deferred)
        self.more = skips >= MAX_SKIPS
        return taken

    def _pop_bucket(self) -> int | None:
        while self._turns:
            place, bucket = heappop(self._turns)
            if self._place.get(bucket) != place:
                continue
            del self._place[bucket]  # until it is entered again, other entries of it are stale, even an equal one
            if self._fair or place == self._buckets[bucket][0]:
                return bucket
            self._enter(bucket, self._buckets[bucket][0])  # its head was discarded meanwhile
        return None

    def _pop_head(self, bucket: int, admit: Callable[[int], bool] | None) -> tuple[int | None, int]:
        members = self._buckets[bucket]
        turned_away = 0
        while members and turned_away < MAX_RUN:
            head: int = members[0]
            members.discard(head)
            self.offsets.discard(head)
            if admit is None or admit(head):
                return head, turned_away
            turned_away += 1
        return None, turned_away

    def _enter_all(self, buckets: list[int]) -> None:
        for bucket in buckets:
            if members := self._buckets[bucket]:
                self._enter(bucket, members[0])
            else:
                del self._buckets[bucket]
        buckets.clear()


class Lanes:
    """Ten lanes, the highest priority first. `members` keeps who has which priority, for those above 0."""

    def __init__(self, keyed: bool, fair: bool) -> None:
        self._new = (lambda: KeyedLane(fair)) if keyed else Lane
        self.lowest: Lane = self._new()
        self._lanes: dict[int, Lane] = {0: self.lowest}
        self._members: dict[int, BitMap64] = {}

    @property
    def prioritized(self) -> bool:
        """Has any message a priority above 0?"""
        return bool(self._members)

    def restore(self, waiting: BitMap64) -> None:
        """A whole backlog without keys is ready; `waiting` is used up."""
        for priority, members in self._members.items():
            self._lanes[priority].offsets |= members & waiting
            waiting -= members
        self.lowest.offsets |= waiting

    def discard_all(self, gone: BitMap64) -> None:
        """Take these out of lanes without keys."""
        for lane in self._lanes.values():
            lane.offsets -= gone

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values())) if self._members else len(self.lowest)

    def prioritize(self, offset: int, priority: int) -> None:
        """Remember a message's priority (1–9) until `forget`."""
        self._members.setdefault(priority, BitMap64()).add(offset)
        if priority not in self._lanes:
            self._lanes[priority] = self._new()
            self._lanes = dict(sorted(self._lanes.items(), reverse=True))

    def forget(self, offsets: BitMap64) -> None:
        """These are settled: drop what is known of their priority."""
        left = ((priority, members - offsets) for priority, members in self._members.items())
        self._members = {priority: members for priority, members in left if members}

    def of(self, offset: int) -> Lane:
        """The lane that a message belongs to."""
        for priority, members in self._members.items():
            if offset in members:
                return self._lanes[priority]
        return self.lowest

    def first(self, offsets: BitMap64) -> int:
        """Which of these, waiting elsewhere, goes first."""
        for _, members in sorted(self._members.items(), reverse=True):
            if high := members & offsets:
                return int(high[0])
        return int(offsets[0])

    @property
    def more(self) -> bool:
        """Did the last `take` end early?"""
        return any(lane.more for lane in self._lanes.values())

    def take(self, count: int, admit: Callable[[int], bool] | None = None) -> list[int]:
        """Take up to `count` messages in the order of handing out."""
        taken: list[int] = []
        for lane in self._lanes.values():
            if len(lane):
                taken += lane.take(count - len(taken), admit)
                if len(taken) >= count:
                    break
        return taken
