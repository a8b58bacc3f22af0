"""Retention at work: in small pieces between commits, what a policy calls surplus and no queue still needs is removed.

What is surplus `core.retention` decides; here it is looked for and deleted. Floor 2.
"""

from typing import TYPE_CHECKING

from pyroaring import BitMap64

from broker.core.message import KEYED, unpack_meta
from broker.core.offsets import PAGE_BITS, PAGE_SIZE
from broker.core.retention import Policy, surplus
from broker.engine.sqlite.chunk import MAX_MESSAGES
from broker.engine.sqlite.forming import InternalUnit
from broker.engine.sqlite.removal import remove
from broker.engine.sqlite.replay import lifted

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

PIECE = 4_000
MAX_CHUNKS = 128
"""From how many chunks a piece takes: one that keeps some of its messages is written anew, up to 64 KiB of them, and
publishers wait meanwhile."""
BUDGET = 40_000
STEP_SECONDS = 1.0
"""After which a step ends, so that the disk is looked at and checkpoints are made."""
MAX_PAGES = 64


def piece_of(chosen: BitMap64) -> list[int]:
    """The first of these, as many as one transaction should take out of the log."""
    piece = list(chosen[:PIECE])
    chunks, last = 0, -1
    for index, offset in enumerate(piece):
        if offset // MAX_MESSAGES != last:
            last = offset // MAX_MESSAGES
            chunks += 1
            if chunks > MAX_CHUNKS:
                return piece[:index]
    return piece


class Pruning:
    """See the module."""

    def __init__(self, engine: "SqliteEngine") -> None:
        self._engine = engine
        self._policies: dict[int, Policy] = {}
        self._read = engine.policies
        self._page = 0  # where the search for old messages goes on
        self._compacted: dict[int, int] = {}  # topic -> messages when `latest` was last applied

    def _policy(self, number: int) -> Policy:
        if self._read is not self._engine.policies:  # they were changed while running
            self._read, self._policies = self._engine.policies, {}
        found = self._policies.get(number)
        if found is None:
            name = self._engine.log.numbers.names[number]
            found = self._policies[number] = self._engine.policies.of(name)
        return found

    async def step(self) -> bool:
        """Remove up to BUDGET messages, for STEP_SECONDS; True when there is more to do at once."""
        removed, until = 0, self._engine.monotonic() + STEP_SECONDS
        candidates, page = await self._candidates()
        for number in candidates:
            chosen = await self._surplus(number)
            while chosen:
                if removed >= BUDGET or self._engine.monotonic() >= until:
                    return True
                piece = piece_of(chosen)
                chosen -= BitMap64(piece)
                topic = self._engine.log.numbers.names[number]
                await remove(self._engine, piece, topic, InternalUnit(), self._pinned)
                removed += len(piece)
        self._page = page
        return page > 0

    async def _candidates(self) -> tuple[list[int], int]:
        """Topics that may hold surplus, and the page at which the next step looks for old messages: each looks at
        MAX_PAGES, because pages that hold nothing but what stays may be many."""
        log = self._engine.log
        totals = log.totals()
        found = {number for number, total in totals.items() if self._over(number, total.messages, total.bytes)}
        now = self._engine.wall_ms()
        ages = {p.retention.age for p in map(self._policy, totals) if p.retention.age is not None}
        youngest = now - min(ages, default=now)
        pages = [page for page in log.all_pages() if page >= self._page]
        for page in pages[:MAX_PAGES]:
            first_at = log.open[page].first_at if page in log.open else log.pages[page].first_at
            if first_at >= youngest:
                return sorted(found), 0
            for number in await self._engine.replay.directory(page) or ():
                age = self._policy(number).retention.age
                if age is not None and first_at < now - age:
                    found.add(number)
        return sorted(found), pages[MAX_PAGES] if len(pages) > MAX_PAGES else 0

    def _over(self, number: int, messages: int, size: int) -> bool:
        keep = self._policy(number).retention
        if not messages:
            return False
        return bool(
            (keep.bytes is not None and size > keep.bytes)
            or (keep.count is not None and messages > keep.count)
            or (keep.latest and self._compacted.get(number) != messages)
        )

    async def _surplus(self, number: int) -> BitMap64:
        engine = self._engine
        keep = self._policy(number).retention
        pages: list[tuple[BitMap64, int]] = []
        for page in engine.log.all_pages():
            directory = await engine.replay.directory(page)
            if directory is not None and number in list(directory):
                pages.append((lifted(directory[number], page), directory.size(number)))
        offsets = BitMap64.union(*(bitmap for bitmap, _ in pages)) if pages else BitMap64()
        before = await self._first_young(offsets, engine.wall_ms() - keep.age) if keep.age is not None else 0
        superseded = await self._superseded(offsets) if keep.latest else BitMap64()
        self._compacted[number] = len(offsets)
        chosen = surplus(keep, offsets, before=before, pages=pages, pinned=self._pinned(offsets), superseded=superseded)
        self._compacted[number] -= len(chosen)
        return chosen

    def _pinned(self, offsets: BitMap64) -> BitMap64:
        pinned = BitMap64()
        for queue in self._engine.queues():
            if queue.outstanding and offsets:
                pinned |= queue.outstanding & offsets
        return pinned

    async def _first_young(self, offsets: BitMap64, at: int) -> int:
        """The first offset that was published at or after `at`."""
        log = self._engine.log
        for page in log.all_pages():
            last_at = log.open[page].last_at if page in log.open else log.pages[page].last_at
            if last_at < at:
                continue
            first = page << PAGE_BITS
            if not offsets.range_cardinality(first, first + PAGE_SIZE):
                return first
            async for headers in self._engine.replay.headers_between(first, first + PAGE_SIZE - 1):
                for offset, _, published, _, _ in headers:
                    if published >= at:
                        return offset
            return first + PAGE_SIZE
        return log.next_offset

    async def _superseded(self, offsets: BitMap64) -> BitMap64:
        """Those that have a newer message of the same key (or, like them, without a key)."""
        newest: dict[str, int] = {}
        older = BitMap64()
        for page in self._engine.log.all_pages():
            first = page << PAGE_BITS
            if not offsets.range_cardinality(first, first + PAGE_SIZE):
                continue
            async for headers in self._engine.replay.headers_between(first, first + PAGE_SIZE - 1):
                for offset, _, _, meta, _ in headers:
                    if offset not in offsets:
                        continue
                    key = unpack_meta(meta)["key"] if meta is not None and meta[0] & KEYED else ""
                    if key in newest:
                        older.add(newest[key])
                    newest[key] = offset
        return older
