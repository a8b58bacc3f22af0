"""The log as the loop knows it: topics by number, where it ends, the directories of its pages, its recent rows.

A page of 65,536 offsets has a directory (topic → its offsets, and the bytes of its bodies). The open page's lives here;
a page that is full is sealed: its directory is written once, with the next commit. Floor 2.
"""

from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import msgpack
from pyroaring import BitMap

from broker.core.message import EXPIRES, KEYED, PRIORITY, Row
from broker.core.offsets import PAGE_BITS, PAGE_SIZE

MAX_PASSING = 10_000
"""Topics of durability `memory` that are remembered to be that."""
LOW = PAGE_SIZE - 1
ROW_OVERHEAD = 250
_SPECIAL = KEYED | PRIORITY | EXPIRES
_offset_of, _at_of, _meta_of = itemgetter(0), itemgetter(2), itemgetter(3)


class TopicNumbers(dict[str, int]):
    """Topic → number, made on first use; `fresh` are those that the next commit must write. Topics of durability
    `memory` have number 0: they are not in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = [""]
        self.fresh: list[tuple[int, str]] = []
        self.is_memory: Callable[[str], bool] = lambda _: False
        self._passing: list[str] = []  # topics in memory, of which there may be one for each request

    def __missing__(self, name: str) -> int:
        if self.is_memory(name):
            if len(self._passing) >= MAX_PASSING:
                for gone in self._passing:
                    del self[gone]
                self._passing.clear()
            self._passing.append(name)
            self[name] = 0
            return 0
        number = len(self.names)
        self.names.append(name)
        self[name] = number
        self.fresh.append((number, name))
        return number

    def restore(self, number: int, name: str) -> None:
        """At start."""
        self.names.extend([""] * (number + 1 - len(self.names)))
        self.names[number] = name
        self[name] = 0 if self.is_memory(name) else number


class Directory:
    """Topic number → (offsets, bytes) in one page that is still growing."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.first_at = 0
        self.last_at = 0
        self.special = False
        self.offsets: dict[int, array[int]] = {}
        self.bytes: dict[int, int] = {}

    def add(self, rows: Sequence[Row], topics: Sequence[int]) -> None:
        """Rows of this page, in order."""
        self.first_at = self.first_at or rows[0][2]
        self.last_at = max(self.last_at, rows[-1][2])
        if any(map(_meta_of, rows)) and not self.special:
            self.special = any(row[3] is not None and row[3][0] & _SPECIAL for row in rows)
        if topics.count(topics[0]) == len(topics):
            lows = [row[0] & LOW for row in rows]
            self._of(topics[0]).extend(lows)
            self.bytes[topics[0]] += sum([len(row[4]) for row in rows])
            return
        offsets, sizes = self.offsets, self.bytes
        for row, topic in zip(rows, topics, strict=True):
            if topic in offsets:
                offsets[topic].append(row[0] & LOW)
                sizes[topic] += len(row[4])
            else:
                offsets[topic] = array("H", (row[0] & LOW,))
                sizes[topic] = len(row[4])

    def restore(self, offset: int, topic: int, at: int, meta: bytes | None, size: int) -> None:
        """A message of this page, from its header."""
        self.first_at = self.first_at or at
        self.last_at = max(self.last_at, at)
        self.special = self.special or (meta is not None and bool(meta[0] & _SPECIAL))
        self._of(topic).append(offset & LOW)
        self.bytes[topic] += size

    def _of(self, topic: int) -> "array[int]":
        found = self.offsets.get(topic)
        if found is None:
            found = self.offsets[topic] = array("H")
            self.bytes[topic] = 0
        return found

    def __getitem__(self, topic: int) -> BitMap:
        return BitMap(array("I", self.offsets[topic]))

    def __iter__(self) -> Iterator[int]:
        return iter(self.offsets)

    def __contains__(self, topic: int) -> bool:
        return topic in self.offsets

    @property
    def empty(self) -> bool:
        """Has it no message?"""
        return not self.offsets

    def size(self, topic: int) -> int:
        """Bytes of bodies of a topic in this page."""
        return self.bytes[topic]

    def count(self, topic: int) -> int:
        """Messages of a topic in this page."""
        return len(self.offsets[topic])

    def remove(self, topic: int, gone: BitMap) -> None:
        """Retention took these."""
        kept = self[topic] - gone
        if kept:
            self.bytes[topic] = self.bytes[topic] * len(kept) // len(self.offsets[topic])
            self.offsets[topic] = array("H", kept)
        else:
            del self.offsets[topic], self.bytes[topic]

    def packed(self) -> bytes:
        """As a sealed page's row holds it."""
        packed: bytes = msgpack.packb(
            {t: (BitMap(array("I", o)).serialize(), self.bytes[t], len(o)) for t, o in self.offsets.items()}
        )
        return packed


class SealedDirectory:
    """The directory of a sealed page, decoded topic by topic as asked."""

    def __init__(self, page: int, packed: bytes) -> None:
        self.page = page
        self._topics: dict[int, list[Any]] = msgpack.unpackb(packed, strict_map_key=False)

    def __getitem__(self, topic: int) -> BitMap:
        return BitMap.deserialize(self._topics[topic][0])

    def __iter__(self) -> Iterator[int]:
        return iter(self._topics)

    def __contains__(self, topic: int) -> bool:
        return topic in self._topics

    @property
    def empty(self) -> bool:
        """Has it no message?"""
        return not self._topics

    def size(self, topic: int) -> int:
        """Bytes of bodies of a topic in this page."""
        size: int = self._topics[topic][1]
        return size

    def count(self, topic: int) -> int:
        """Messages of a topic in this page."""
        count: int = self._topics[topic][2]
        return count

    def remove(self, topic: int, gone: BitMap) -> None:
        """Retention took these."""
        before = self[topic]
        kept = before - gone
        if kept:
            size = self.size(topic) * len(kept) // len(before)
            self._topics[topic] = [kept.serialize(), size, len(kept)]
        else:
            del self._topics[topic]

    def packed(self) -> bytes:
        """As the page's row holds it."""
        packed: bytes = msgpack.packb(self._topics)
        return packed


@dataclass(slots=True)
class PageInfo:
    """What is kept in memory of every sealed page."""

    first_at: int
    last_at: int
    special: bool


class Tail:
    """The most recent rows, by whole commits, within a budget of bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._batches: deque[tuple[list[Row], int]] = deque()
        self._firsts: list[int] = []
        self._dropped = 0
        self.size = 0
        self.begin = 0
        """Every row from this offset on is here."""

    def add(self, rows: list[Row], size: int) -> None:
        """The rows of a commit, in order; `size` of their bodies."""
        size += ROW_OVERHEAD * len(rows)
        self._batches.append((rows, size))
        self._firsts.append(rows[0][0])
        self.size += size
        while self.size > self._budget and self._batches:
            gone, size = self._batches.popleft()
            self.size -= size
            self.begin = gone[-1][0] + 1
            self._dropped += 1
        if self._dropped > 1_000:
            del self._firsts[: self._dropped]
            self._dropped = 0

    def clear(self, end: int) -> None:
        """Forget all; the log ends at `end`."""
        self._batches.clear()
        self._firsts.clear()
        self._dropped = self.size = 0
        self.begin = end + 1

    def remove(self, offsets: Sequence[int]) -> None:
        """These rising offsets are no longer in the log."""
        if offsets[-1] < self.begin:
            return
        gone = set(offsets)
        kept: deque[tuple[list[Row], int]] = deque()
        for rows, size in self._batches:
            if rows[0][0] <= offsets[-1] and rows[-1][0] >= offsets[0]:
                left = [row for row in rows if row[0] not in gone]
                size -= sum(len(row[4]) + ROW_OVERHEAD for row in rows if row[0] in gone)
                rows = left
            if rows:
                kept.append((rows, size))
        self._batches = kept
        self._firsts = [rows[0][0] for rows, _ in kept]
        self._dropped = 0
        self.size = sum(size for _, size in kept)

    def find(self, offsets: Sequence[int]) -> list[Row] | None:
        """The rows of these rising offsets, or None when some are older than what is kept here."""
        if offsets[0] < self.begin:
            return None
        found: list[Row] = []
        at, count = 0, len(offsets)
        index = max(bisect_right(self._firsts, offsets[0]) - 1 - self._dropped, 0)
        while at < count and index < len(self._batches):
            rows = self._batches[index][0]
            last = rows[-1][0]
            stop = bisect_right(offsets, last, at)
            if stop > at:
                if last - rows[0][0] == len(rows) - 1:
                    first = rows[0][0]
                    found += [rows[o - first] for o in offsets[at:stop] if o >= first]
                else:
                    wanted = set(offsets[at:stop])
                    found += [row for row in rows if row[0] in wanted]
            at = stop
            index += 1
        return found

    def after(self, offset: int) -> Iterator[list[Row]]:
        """Batches that hold rows above `offset`, which must not lie below `begin - 1`."""
        index = max(bisect_right(self._firsts, offset) - 1 - self._dropped, 0)
        for i in range(index, len(self._batches)):
            rows = self._batches[i][0]
            if rows[-1][0] > offset:
                yield rows if rows[0][0] > offset else [row for row in rows if row[0] > offset]


@dataclass(slots=True)
class Totals:
    """Messages and bytes of a topic that are in the log."""

    messages: int = 0
    bytes: int = 0


@dataclass(slots=True, eq=False)
class Log:
    """See the module. `end`: the last committed offset; `next_offset`: the next to be given out."""

    tail: Tail
    epoch: str = ""
    next_offset: int = 1
    end: int = 0
    last_at: int = 0
    numbers: TopicNumbers = field(default_factory=TopicNumbers)
    open: dict[int, Directory] = field(default_factory=dict)
    pages: dict[int, PageInfo] = field(default_factory=dict)
    sealed_totals: dict[int, Totals] = field(default_factory=dict)
    pruned_to: dict[int, int] = field(default_factory=dict)
    _decoded: "OrderedDict[int, SealedDirectory]" = field(default_factory=OrderedDict)

    def clamp(self, now_ms: int) -> int:
        """`published_at` rises: a clock set back by up to a minute holds still instead."""
        if now_ms >= self.last_at or self.last_at - now_ms > 60_000:
            self.last_at = now_ms
        return self.last_at

    def committed(self, rows: list[Row], topics: list[int], size: int) -> None:
        """These rows are on disk: enter them into directory and tail."""
        first, last = rows[0][0] >> PAGE_BITS, rows[-1][0] >> PAGE_BITS
        if first == last:
            self.directory(first).add(rows, topics)
        else:
            for page in range(first, last + 1):
                here = [i for i, row in enumerate(rows) if row[0] >> PAGE_BITS == page]
                if here:
                    self.directory(page).add([rows[i] for i in here], [topics[i] for i in here])
        self.tail.add(rows, size)

    def directory(self, page: int) -> Directory:
        """Of a page that is not sealed."""
        found = self.open.get(page)
        if found is None:
            found = self.open[page] = Directory(page)
        return found

    def topics(self) -> set[int]:
        """The numbers of the topics that have messages in the log."""
        sealed = {number for number, total in self.sealed_totals.items() if total.messages}
        return sealed.union(*self.open.values())

    def total_of(self, number: int) -> Totals:
        """Messages and bytes of one topic that are in the log."""
        sealed = self.sealed_totals.get(number, Totals())
        total = Totals(sealed.messages, sealed.bytes)
        for directory in self.open.values():
            if number in directory:
                total.messages += directory.count(number)
                total.bytes += directory.size(number)
        return total

    def full_pages(self) -> list[Directory]:
        """Pages that get no more rows and wait to be sealed: the last of their rows is committed and entered here."""
        current = (self.end + 1) >> PAGE_BITS
        return [directory for page, directory in self.open.items() if page < current]

    def sealed(self, directory: Directory) -> None:
        """Its row is on disk."""
        del self.open[directory.page]
        for number in directory:
            self.add_total(number, directory.count(number), directory.size(number))
        self.pages[directory.page] = PageInfo(directory.first_at, directory.last_at, directory.special)

    def add_total(self, number: int, messages: int, size: int) -> None:
        """So much more (or, negative, less) of a topic is in sealed pages."""
        total = self.sealed_totals.setdefault(number, Totals())
        total.messages += messages
        total.bytes += size

    def decoded(self, page: int) -> SealedDirectory | None:
        """A sealed page's directory if it was decoded lately."""
        found = self._decoded.get(page)
        if found is not None:
            self._decoded.move_to_end(page)
        return found

    def keep_decoded(self, directory: SealedDirectory) -> None:
        """Keep it for the next reader; the oldest go."""
        self._decoded[directory.page] = directory
        while len(self._decoded) > 32:
            self._decoded.popitem(last=False)

    def forget_page(self, page: int) -> None:
        """Retention emptied it."""
        self.pages.pop(page, None)
        self.open.pop(page, None)
        self._decoded.pop(page, None)

    def all_pages(self) -> list[int]:
        """Every page with messages, in order."""
        return sorted({*self.pages, *self.open})

    @property
    def begin(self) -> int:
        """No offset below this one is in the log."""
        pages = self.all_pages()
        return pages[0] << PAGE_BITS if pages else self.next_offset
