"""Retention at work: in small pieces between commits, what a policy calls surplus and no queue still needs is removed.

A round looks at every page for what is too old, of all topics at once, and then at every topic that has too much. What
is surplus there `core.retention` decides; here it is looked for and deleted. Floor 2.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
MAX_TOPICS = 256
"""Topics that are looked at together."""
PLANNED = 2_000
"""Topics whose sums are looked at in one go."""


@dataclass(slots=True)
class Found:
    """Messages to be removed; `by_topic` tells rising ones of them apart by the numbers of their topics."""

    offsets: BitMap64
    by_topic: Callable[[Sequence[int]], dict[int, list[int]]]


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
        self._round: deque[Callable[[], Awaitable[Found]]] = deque()  # where to look next
        self._found: Found | None = None  # what is being removed
        self._ageless: set[int] = set()  # sealed pages without a message that can become too old
        self._compacted: dict[int, int] = {}  # topic -> messages when `latest` was last applied

    def _policy(self, number: int) -> Policy:
        found = self._policies.get(number)
        if found is None:
            name = self._engine.log.numbers.names[number]
            found = self._policies[number] = self._engine.policies.of(name)
        return found

    async def step(self) -> bool:
        """Remove up to BUDGET messages, for STEP_SECONDS, one piece at least if there is one; True when there is more
        to do at once. The next step goes on where this one ended."""
        if self._read is not self._engine.policies:  # they were changed while running
            self._begin_anew()
        if self._found is None and not self._round:
            self._round.extend(await self._plan())
        removed, until = 0, self._engine.monotonic() + STEP_SECONDS
        while self._found is not None or self._round:
            if self._found is None:
                self._found = await self._round.popleft()()
            found = self._found
            while found.offsets:
                piece = piece_of(found.offsets)
                found.offsets -= BitMap64(piece)
                await remove(self._engine, found.by_topic(piece), InternalUnit(), self._pinned)
                removed += len(piece)
                if removed >= BUDGET or self._engine.monotonic() >= until:
                    return True
            self._found = None
            if self._engine.monotonic() >= until:
                break
        return removed > 0 and bool(self._round)

    def _begin_anew(self) -> None:
        self._read, self._policies = self._engine.policies, {}
        self._found = None
        self._round.clear()
        self._ageless.clear()

    async def _plan(self) -> list[Callable[[], Awaitable[Found]]]:
        """Where surplus may be."""
        log = self._engine.log
        ages: set[int] = set()
        over: list[int] = []
        for count, number in enumerate(sorted(log.topics()), 1):
            age = self._policy(number).retention.age
            if age is not None:
                ages.add(age)
            if self._over(number):
                over.append(number)
            if count % PLANNED == 0:
                await asyncio.sleep(0)
        youngest = self._engine.wall_ms() - min(ages, default=0)
        places: list[Callable[[], Awaitable[Found]]] = []
        for page in log.all_pages() if ages else ():
            first_at = log.open[page].first_at if page in log.open else log.pages[page].first_at
            if first_at < youngest and page not in self._ageless:
                places.append(partial(self._aged, page))
        parts = [over[at : at + MAX_TOPICS] for at in range(0, len(over), MAX_TOPICS)]
        return [*places, *(partial(self._surplus, part) for part in parts)]

    def _over(self, number: int) -> bool:
        keep, total = self._policy(number).retention, self._engine.log.total_of(number)
        return bool(
            (keep.bytes is not None and total.bytes > keep.bytes)
            or (keep.count is not None and total.messages > keep.count)
            or (keep.latest and self._compacted.get(number) != total.messages)
        )

    async def _aged(self, page: int) -> Found:
        """What is too old in a page, of all topics: neighbours go together, and their chunks whole."""
        owners: dict[int, int] = {}
        found = Found(BitMap64(), partial(_by_owner, owners))
        directory = await self._engine.replay.directory(page)
        if directory is None:
            return found
        first = page << PAGE_BITS
        pinned = self._pinned(_between(first, first + PAGE_SIZE))
        if len(pinned) == sum(map(directory.count, directory)):
            return found
        old: dict[int, BitMap64] = {}  # age -> what was published before that, and is not pinned
        for count, number in enumerate(list(directory)):
            if count % MAX_TOPICS == MAX_TOPICS - 1:
                await asyncio.sleep(0)
            age = self._policy(number).retention.age
            if age is None:
                continue
            if age not in old:
                old[age] = _between(first, await self._first_young(page, self._engine.wall_ms() - age)) - pinned
            if old[age] and number in directory:
                owners.update(dict.fromkeys(lifted(directory[number], page) & old[age], number))
        if not old and page in self._engine.log.pages:
            self._ageless.add(page)
        found.offsets.update(owners)
        return found

    async def _surplus(self, numbers: Sequence[int]) -> Found:
        """What topics have too much of, or, with `latest`, what is superseded."""
        engine = self._engine
        pages: dict[int, list[tuple[BitMap64, int]]] = {number: [] for number in numbers}
        for page in engine.log.all_pages():
            directory = await engine.replay.directory(page)
            if directory is None:
                continue
            for number in numbers:
                if number in directory:
                    pages[number].append((lifted(directory[number], page), directory.size(number)))
        chosen: dict[int, BitMap64] = {}
        for number, parts in pages.items():
            keep = self._policy(number).retention
            offsets = BitMap64.union(*(bitmap for bitmap, _ in parts)) if parts else BitMap64()
            superseded = await self._superseded(offsets) if keep.latest else BitMap64()
            gone = surplus(keep, offsets, pages=parts, pinned=self._pinned(offsets), superseded=superseded)
            self._compacted[number] = len(offsets) - len(gone)
            if gone:
                chosen[number] = gone
        return Found(BitMap64.union(*chosen.values()) if chosen else BitMap64(), partial(_by_part, chosen))

    def _pinned(self, offsets: BitMap64) -> BitMap64:
        pinned = BitMap64()
        for queue in self._engine.queues():
            if queue.outstanding and offsets:
                pinned |= queue.outstanding & offsets
        return pinned

    async def _first_young(self, page: int, at: int) -> int:
        """The first offset of a page that was published at or after `at`."""
        log = self._engine.log
        first, end = page << PAGE_BITS, min((page + 1) << PAGE_BITS, log.end + 1)
        info = log.open.get(page) or log.pages.get(page)
        if info is None or info.last_at < at:
            return end
        async for headers in self._engine.replay.headers_between(first, end - 1):
            for offset, _, published, _, _ in headers:
                if published >= at:
                    return offset
        return end

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


def _between(first: int, end: int) -> BitMap64:
    found = BitMap64()
    found.add_range(first, end)
    return found


def _by_owner(owners: dict[int, int], offsets: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for offset in offsets:
        found.setdefault(owners[offset], []).append(offset)
    return found


def _by_part(parts: dict[int, BitMap64], offsets: Sequence[int]) -> dict[int, list[int]]:
    wanted = BitMap64(offsets)
    return {number: list(mine) for number, part in parts.items() if (mine := part & wanted)}
