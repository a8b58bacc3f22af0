"""What waits in a queue: which message is ready, which waits behind another of its key, its size, what expires.

The queue machine puts offsets in and takes them out; who holds what, and what a settle makes of it, it decides itself.
Floor 0.
"""

from collections.abc import Sequence
from itertools import islice

from pyroaring import BitMap64

from broker.core.lanes import BUCKETS, Lanes
from broker.core.message import EXPIRES, KEYED, PRIORITY, Row, unpack_meta
from broker.core.offsets import PerOffset, add_rising
from broker.core.subscription import Spec

_KEY_MASK = (1 << 63) - 1


class Backlog:
    """See the module. A key is *busy* while a message of it is in hand, delayed or dying: its *head*. The others wait
    behind it; when the head is out of the way, the next is *promised* to be head and becomes ready."""

    def __init__(self, spec: Spec) -> None:
        self._ordered = spec.ordered
        self._keyed = spec.ordered or spec.fair
        self._special = PRIORITY | EXPIRES | (KEYED if self._keyed else 0)
        self._lanes = Lanes(self._keyed, spec.fair)
        self._keys = PerOffset()
        self._heads: dict[int, int] = {}
        self._behind: dict[int, BitMap64] = {}
        self._promised: set[int] = set()
        self._sizes = PerOffset() if spec.max_bytes else None
        self._expiring: dict[int, BitMap64] = {}  # unix second -> offsets
        self.size = 0

    def __len__(self) -> int:
        """How many are ready."""
        return len(self._lanes)

    @property
    def blocked(self) -> int:
        """How many wait behind a message of their key."""
        return sum(map(len, self._behind.values()))

    @property
    def unfinished(self) -> bool:
        """Did the last `take` end early, so that another may find more?"""
        return self._lanes.more

    # In

    def note(self, rows: Sequence[Row]) -> bool:
        """Look at the headers of new messages; False when all are plain: then their order is that of the log."""
        if self._sizes is not None:
            sizes = [len(row[4]) for row in rows]
            self._sizes.put([row[0] for row in rows], sizes)
            self.size += sum(sizes)
        special = self._keyed
        for row in rows:
            if special or (row[3] is not None and row[3][0] & self._special):
                special = True
                self._note_meta(row[0], row[3])
        return special

    def note_header(self, offset: int, packed: bytes | None, size: int) -> None:
        """What a message's header says of key, priority and expiry, and the size of its body."""
        if self._sizes is not None:
            self._sizes[offset] = size
            self.size += size
        self._note_meta(offset, packed)

    def _note_meta(self, offset: int, packed: bytes | None) -> None:
        if packed is None or not packed[0] & self._special:
            return
        meta = unpack_meta(packed)
        if self._keyed and "key" in meta:
            self._keys[offset] = (hash(meta["key"]) & _KEY_MASK) or 1
        if priority := meta.get("priority", 0):
            self._lanes.prioritize(offset, priority)
        if "expires_at" in meta:
            self._expiring.setdefault(-(-meta["expires_at"] // 1000), BitMap64()).add(offset)

    def add(self, offsets: Sequence[int]) -> None:
        """These noted messages wait from now on."""
        if not offsets:
            return
        if not self._keyed and not self._lanes.prioritized:
            add_rising(self._lanes.lowest.offsets, offsets)
            return
        for offset in offsets:
            key = self._keys[offset]
            if key in self._heads:
                self._behind[key].add(offset)
            else:
                self._lanes.of(offset).add(offset, key % BUCKETS)

    def restore(self, offsets: BitMap64) -> None:
        """The same at start, for a whole backlog."""
        if self._keyed:
            self.add(list(offsets))
        else:
            self._lanes.restore(offsets)

    def back(self, offset: int) -> None:
        """Ready again, at its old place; first of its key."""
        key = self._keys[offset]
        if key and self._heads.get(key) == offset:
            self._promised.add(key)
        self._lanes.of(offset).add(offset, key % BUCKETS)

    # Out

    def take(self, count: int) -> list[int]:
        """Take up to `count` in the order of handing out; they become heads of their keys."""
        return self._lanes.take(count, self._admit if self._ordered else None)

    def _admit(self, offset: int) -> bool:
        key = self._keys[offset]
        if not key:
            return True
        if key in self._promised:
            self._promised.discard(key)
            self._heads[key] = offset  # if it is not the promised one, that one is turned away when its turn comes
            return True
        if key in self._heads:
            self._behind[key].add(offset)
            return False
        self._heads[key], self._behind[key] = offset, BitMap64()
        return True

    def occupy(self, offset: int) -> None:
        """This message, taken out, keeps its key busy: it is delayed or dying."""
        if self._ordered and (key := self._keys[offset]) and key not in self._heads:
            self._heads[key], self._behind[key] = offset, BitMap64()

    def remove(self, offset: int) -> None:
        """Out of the ready and out of those that wait behind; a head stays head until `settled` or `back`."""
        key = self._keys[offset]
        self._lanes.of(offset).discard(offset, key % BUCKETS)
        if not key or key not in self._heads:
            return
        if self._heads[key] == offset:
            self._promised.discard(key)
        else:
            self._behind[key].discard(offset)

    def remove_all(self, offsets: BitMap64) -> None:
        """`remove` for very many."""
        if not self._keyed:
            self._lanes.discard_all(offsets)
            return
        for offset in offsets:
            self.remove(offset)

    def settled(self, offsets: Sequence[int], gone: BitMap64) -> None:
        """These (the same, twice) are gone for good: forget them, free their keys."""
        if self._sizes is not None:
            self.size -= self._sizes.sum(offsets)
        if self._lanes.prioritized:
            self._lanes.forget(gone)
        if self._heads:
            for offset in offsets:
                self._free(offset)

    def _free(self, offset: int) -> None:
        """If this is the head of its key, it is out of the way: the next of those behind it is ready, and only that
        one, so that a settle costs the same however many wait."""
        key = self._keys[offset]
        if self._heads.get(key) != offset:
            return
        self._promised.discard(key)
        waiting = self._behind[key]
        if not waiting:
            del self._heads[key], self._behind[key]
            return
        head = self._heads[key] = self._lanes.first(waiting)
        waiting.discard(head)
        self._promised.add(key)
        self._lanes.of(head).add(head, key % BUCKETS)

    def forget_below(self, floor: int) -> None:
        """Nothing at or below the floor is outstanding."""
        self._keys.forget_below(floor)
        if self._sizes is not None:
            self._sizes.forget_below(floor)

    # Caps and time

    def surplus(self, offsets: BitMap64, count: int, limit: int | None) -> list[int]:
        """The oldest of these that must go: `count` of them, and more until at most `limit` bytes are left."""
        victims = list(offsets[: max(count, 0)])
        if limit is None or self._sizes is None:
            return victims
        over = self.size - limit - self._sizes.sum(victims)
        for offset in islice(offsets, len(victims), None) if over > 0 else ():
            victims.append(offset)
            over -= self._sizes[offset]
            if over <= 0:
                break
        return victims

    @property
    def next_expiry(self) -> int | None:
        """Unix ms at which `expired` has something to tell."""
        return min(self._expiring) * 1000 if self._expiring else None

    def expired(self, wall: int) -> BitMap64:
        """What has expired by now (unix ms), told once, settled or not."""
        found = BitMap64()
        for second in [s for s in self._expiring if s * 1000 <= wall]:
            found |= self._expiring.pop(second)
        return found
