"""Taking messages out of the log: rows, directories and memory together, for retention and for redriven dead letters.

Floor 2.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pyroaring import BitMap, BitMap64

from broker.core.offsets import PAGE_BITS, PAGE_SIZE
from broker.engine.sqlite.forming import InternalUnit
from broker.engine.sqlite.log import Directory, SealedDirectory

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

Chosen = Mapping[int, list[int]]
"""Topic (by number) to rising offsets."""
Needed = Callable[[BitMap64], BitMap64]
"""Which of these offsets must stay."""


def by_page(offsets: list[int]) -> dict[int, BitMap]:
    """Rising offsets as the low 16 bits of each page."""
    pages: dict[int, list[int]] = {}
    for offset in offsets:
        pages.setdefault(offset >> PAGE_BITS, []).append(offset & (PAGE_SIZE - 1))
    return {page: BitMap(lows) for page, lows in pages.items()}


async def remove(engine: "SqliteEngine", chosen: Chosen, unit: InternalUnit, needed: Needed | None = None) -> None:
    """Delete messages from the log, together with what else `unit` does. `needed` is asked in the moment the
    transaction is formed: what a queue came to want meanwhile stays."""
    async with engine.removing:
        pages = {offset >> PAGE_BITS for offsets in chosen.values() for offset in offsets}
        loaded = {page: await engine.replay.directory(page) for page in pages}
        unit.prepare = partial(_take_out, engine, chosen, unit, loaded, needed)
        await engine.committed_unit(unit)


def _take_out(
    engine: "SqliteEngine",
    chosen: Chosen,
    unit: InternalUnit,
    loaded: dict[int, Directory | SealedDirectory | None],
    needed: Needed | None,
) -> None:
    """Called between two commits, so that no page is just being sealed."""
    log = engine.log
    kept = needed(BitMap64([o for offsets in chosen.values() for o in offsets])) if needed is not None else BitMap64()
    gone: dict[int, dict[int, BitMap]] = {}  # page -> topic -> low 16 bits
    removed: list[int] = []
    for number, offsets in chosen.items():
        if kept:
            offsets = [offset for offset in offsets if offset not in kept]
        if not offsets:
            continue
        removed += offsets
        unit.statements.append(("UPDATE topic SET pruned_to = max(pruned_to, ?) WHERE id = ?", (offsets[-1], number)))
        log.pruned_to[number] = max(log.pruned_to.get(number, 0), offsets[-1])
        for page, lows in by_page(offsets).items():
            gone.setdefault(page, {})[number] = lows
    if not removed:
        return
    removed.sort()
    unit.removed += removed
    for page, topics in gone.items():
        directory = log.open.get(page) or log.decoded(page) or loaded[page]
        if directory is not None:
            _take_from(engine, directory, topics, unit)
    log.tail.remove(removed)


def _take_from(
    engine: "SqliteEngine", directory: Directory | SealedDirectory, topics: Mapping[int, BitMap], unit: InternalUnit
) -> None:
    """Out of the directory of a page."""
    log, page = engine.log, directory.page
    if isinstance(directory, SealedDirectory):
        log.keep_decoded(directory)  # who has read the old one from the file and comes by later takes this one
    for number, gone in topics.items():
        if number not in directory:
            continue
        before, size = directory.count(number), directory.size(number)
        directory.remove(number, gone)
        if number in directory:
            before, size = before - directory.count(number), size - directory.size(number)
        if page in log.pages:
            log.add_total(number, -before, -size)
    if page in log.pages:
        unit.statements.append(_page_change(directory))
    if directory.empty and page < log.next_offset >> PAGE_BITS:
        log.forget_page(page)


def _page_change(directory: Directory | SealedDirectory) -> tuple[str, tuple[Any, ...]]:
    if directory.empty:
        return ("DELETE FROM page WHERE page = ?", (directory.page,))
    return ("UPDATE page SET directory = ? WHERE page = ?", (directory.packed(), directory.page))
