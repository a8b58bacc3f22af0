"""Reading the log: replay by filter from anywhere, rows by offset, and where a start lies. Selective readers skip by
the directories of pages, so that reading costs in proportion to what matches. Floor 2.
"""

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pyroaring import BitMap, BitMap64

from broker.core.message import Row
from broker.core.offsets import PAGE_BITS, PAGE_SIZE
from broker.core.position import Start
from broker.engine.base import Page
from broker.engine.sqlite import reading
from broker.engine.sqlite.chunk import Header
from broker.engine.sqlite.log import Directory, SealedDirectory

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

MAX_FETCH = 2_000
HEADERS = 4_096
"""Offsets whose headers are read in one step: each may take 64 KiB, and SQLite refuses a result of a gigabyte."""


class Replay:
    """See the module."""

    def __init__(self, engine: "SqliteEngine") -> None:
        self._engine = engine

    # Where a start lies

    def resolve(self, filters: Sequence[str], start: Start) -> tuple[int, bool, int]:
        """(position: everything up to it counts as seen; did reading begin where asked; skip what was published
        before this unix ms)."""
        end = self._engine.log.end
        if start.kind == "latest":
            return end, True, 0
        if start.kind == "time":
            return self._before(start.offset), not self._pruned_since(filters, start.offset), start.offset
        if start.kind == "earliest":
            return 0, True, 0
        if start.kind == "after" and start.epoch != self._engine.epoch:
            return 0, False, 0
        position = start.offset if start.kind == "after" else start.offset - 1
        if position > end:
            return end, start.kind == "offset" and position == end, 0
        return max(position, 0), not self.lost(filters, position), 0

    def lost(self, filters: Sequence[str], position: int) -> bool:
        """Has retention removed something that these filters would have read after this position?"""
        log = self._engine.log
        wild = [text for text in filters if "+" in text or "#" in text]
        names = (text for text in filters if "+" not in text and "#" not in text)
        if any(log.pruned_to.get(log.numbers.get(name, 0), 0) > position for name in names):
            return True
        if not wild:
            return False  # else all topics are looked at, of which there may be many
        wanted = self._engine.matchers.of(wild)
        return any(gone > position and wanted[log.numbers.names[n]] for n, gone in log.pruned_to.items())

    def _pruned_since(self, filters: Sequence[str], at: int) -> bool:
        return self.lost(filters, self._before(at))

    def _before(self, at: int) -> int:
        """An offset below everything published at or after `at`, by the ages of pages."""
        log = self._engine.log
        for page in log.all_pages():
            last_at = log.open[page].last_at if page in log.open else log.pages[page].last_at
            if last_at >= at:
                return (page << PAGE_BITS) - 1
        return log.end

    def about(self, offset: int) -> int | None:
        """When a message was published: exactly if it is in memory, else as its page says."""
        log = self._engine.log
        rows = log.tail.find([offset])
        if rows:
            return rows[0][2]
        page = offset >> PAGE_BITS
        if page in log.open:
            return log.open[page].first_at
        return log.pages[page].first_at if page in log.pages else None

    # Directories

    async def directory(self, page: int) -> Directory | SealedDirectory | None:
        """Of an open or sealed page."""
        log = self._engine.log
        found = log.open.get(page) or log.decoded(page)
        if found is not None or page not in log.pages:
            return found
        sql = "SELECT directory FROM page WHERE page = ?"
        row = await self._engine.reader.run(lambda db: db.execute(sql, (page,)).fetchone())
        if row is None:
            return None
        kept = log.decoded(page)  # another may have read it too, and changed it since
        if kept is None:
            kept = SealedDirectory(page, row[0])
            log.keep_decoded(kept)
        return kept

    def _matching(self, directory: Directory | SealedDirectory, filters: Sequence[str]) -> tuple[list[int], bool]:
        """The topics of a page that match, and whether all do."""
        names = self._engine.log.numbers.names
        wanted = self._engine.matchers.of(filters)
        topics = list(directory)
        matching = [topic for topic in topics if wanted[names[topic]]]
        return matching, len(matching) == len(topics)

    async def offsets(self, filters: Sequence[str], position: int, since: int, end: int) -> BitMap64:
        """All matching offsets above `position` up to `end`."""
        found = BitMap64()
        for page in self._engine.log.all_pages():
            if (page + 1) << PAGE_BITS <= position + 1 or page << PAGE_BITS > end:
                continue
            directory = await self.directory(page)
            if directory is None:
                continue
            topics, _ = self._matching(directory, filters)
            if topics:
                found |= lifted(BitMap.union(*(directory[t] for t in topics)), page)
        found.remove_range(0, position + 1)
        found.remove_range(end + 1, 1 << 62)
        if since and found:
            async for headers in self.headers_between(int(found[0]), self._page_end(int(found[0]))):
                for offset, _, at, _, _ in headers:
                    if at < since:
                        found.discard(offset)
        return found

    @staticmethod
    def _page_end(offset: int) -> int:
        return offset | (PAGE_SIZE - 1)

    # Rows

    async def read(
        self, filters: Sequence[str], position: int, limit: int, max_bytes: int = 4 << 20, since: int = 0
    ) -> Page:
        """Matching rows above `position`, at most `limit` and about `max_bytes`."""
        log = self._engine.log
        wanted = self._engine.matchers.of(filters)
        end = log.end
        rows: list[Row] = []
        size = 0
        for page in log.all_pages():
            if self._page_end(page << PAGE_BITS) <= position:
                continue
            directory = await self.directory(page)
            if directory is None:
                continue
            topics, everything = self._matching(directory, filters)
            if not topics:
                continue
            offsets = self._offsets(directory, topics, position, end) if not everything else None
            weight = max(1, sum(map(directory.size, topics)) // sum(map(directory.count, topics)))  # of one body
            at = max(position + 1, page << PAGE_BITS)
            stop = min(self._page_end(at), end)
            while at <= stop:
                count = max(1, min(limit - len(rows), MAX_FETCH, (max_bytes - size) // weight))
                part = await self._piece(offsets, at, stop, count)
                for row in part:
                    if row[2] < since or not wanted[row[1]]:  # one being removed is in no directory any more
                        continue
                    rows.append(row)
                    size += len(row[4])
                    if len(rows) >= limit or size >= max_bytes:
                        return Page(rows, row[0])
                at = self._after_piece(offsets, at, stop, count)
        return Page(rows, max(end, position))

    def _offsets(self, directory: Directory | SealedDirectory, topics: list[int], position: int, end: int) -> list[int]:
        base = directory.page << PAGE_BITS
        low = BitMap.union(*(directory[t] for t in topics))
        return [base + o for o in low if position < base + o <= end]

    async def _piece(self, offsets: list[int] | None, at: int, stop: int, count: int) -> list[Row]:
        if offsets is None:
            return await self.range(at, min(stop, at + count - 1))
        index = bisect_right(offsets, at - 1)
        return await self.fetch(offsets[index : index + count])

    @staticmethod
    def _after_piece(offsets: list[int] | None, at: int, stop: int, count: int) -> int:
        if offsets is None:
            return min(stop, at + count - 1) + 1
        index = bisect_right(offsets, at - 1)
        taken = offsets[index : index + count]
        return taken[-1] + 1 if taken else stop + 1

    async def range(self, first: int, last: int) -> list[Row]:
        """All rows from `first` to `last`."""
        tail = self._engine.log.tail
        if first >= tail.begin:
            return [row for batch in tail.after(first - 1) for row in batch if row[0] <= last]
        names = self._engine.log.numbers.names
        return await self._engine.reader.run(lambda db: reading.read_range(db, names, first, last))

    async def fetch(self, offsets: Sequence[int]) -> list[Row]:
        """The rows of these rising offsets that are still there."""
        if not offsets:
            return []
        found = self._engine.log.tail.find(offsets)
        if found is not None:
            return found
        names = self._engine.log.numbers.names
        return await self._engine.reader.run(lambda db: reading.read_offsets(db, names, offsets))

    async def fetch_within(self, offsets: Sequence[int], size: int) -> tuple[list[Row], int]:
        """As many of these offsets, from the first on, as have bodies of `size` bytes together, one at least: their
        rows in order, and how many offsets that are."""

        names = self._engine.log.numbers.names
        return await self._engine.reader.run(lambda db: reading.read_within(db, names, offsets, size))

    async def headers_between(self, first: int, last: int) -> AsyncIterator[list[Header]]:
        """The headers of a range, both ends included, in pieces."""
        for at in range(first, last + 1, HEADERS):
            read = partial(reading.read_headers, first=at, last=min(at + HEADERS - 1, last))
            yield await self._engine.reader.run(read)

    async def headers(
        self, offsets: BitMap64, tell: Callable[[int, bytes | None, int], None], *, everything: bool
    ) -> None:
        """Tell (offset, meta, size) of every message of `offsets` that has key, priority or expiry; of every message
        when `everything`."""
        log = self._engine.log
        for page in log.all_pages():
            first, last = page << PAGE_BITS, self._page_end(page << PAGE_BITS)
            special = log.open[page].special if page in log.open else log.pages[page].special
            if not (special or everything) or not offsets.range_cardinality(first, last + 1):
                continue
            async for headers in self.headers_between(first, last):
                for offset, _, _, meta, size in headers:
                    if (everything or meta is not None) and offset in offsets:
                        tell(offset, meta, size)


def lifted(low: BitMap, page: int) -> BitMap64:
    """The offsets of a page from their low 16 bits."""
    base = page << PAGE_BITS
    if len(low) and low.max() - low.min() == len(low) - 1:
        found = BitMap64()
        found.add_range(base + low.min(), base + low.max() + 1)
        return found
    return BitMap64(low).shift(base)
