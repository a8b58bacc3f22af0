"""Taking messages out of the log: rows, directories and memory together, for retention and for redriven dead letters.

Floor 2.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pyroaring import BitMap, BitMap64

from broker.core.offsets import PAGE_BITS, PAGE_SIZE
from broker.engine.sqlite.forming import InternalUnit
from broker.engine.sqlite.log import Directory, SealedDirectory

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

Needed = Callable[[BitMap64], BitMap64]
"""Which of these offsets must stay."""


def by_page(offsets: list[int]) -> dict[int, BitMap]:
    """Rising offsets as the low 16 bits of each page."""
    pages: dict[int, list[int]] = {}
    for offset in offsets:
        pages.setdefault(offset >> PAGE_BITS, []).append(offset & (PAGE_SIZE - 1))
    return {page: BitMap(lows) for page, lows in pages.items()}


async def remove(
    engine: "SqliteEngine", offsets: list[int], topic: str, unit: InternalUnit, needed: Needed | None = None
) -> None:
    """Delete messages of one topic from the log, together with what else `unit` does. `needed` is asked in the moment
    the transaction is formed: what a queue came to want meanwhile stays."""
    async with engine.removing:
        loaded = {page: await engine.replay.directory(page) for page in by_page(offsets)}
        unit.prepare = partial(_take_out, engine, offsets, engine.log.numbers[topic], unit, loaded, needed)
        await engine.committed_unit(unit)


def _take_out(
    engine: "SqliteEngine",
    offsets: list[int],
    number: int,
    unit: InternalUnit,
    loaded: dict[int, Directory | SealedDirectory | None],
    needed: Needed | None,
) -> None:
    """Called between two commits, so that no page is just being sealed."""
    log = engine.log
    if needed is not None and (kept := needed(BitMap64(offsets))):
        offsets = [offset for offset in offsets if offset not in kept]
    if not offsets:
        return
    unit.removed += offsets
    unit.statements.append(("UPDATE topic SET pruned_to = max(pruned_to, ?) WHERE id = ?", (offsets[-1], number)))
    for page, gone in by_page(offsets).items():
        directory = log.open.get(page) or log.decoded(page) or loaded[page]
        if directory is None or number not in list(directory):
            continue
        if isinstance(directory, SealedDirectory):
            log.keep_decoded(directory)  # who has read the old one from the file and comes by later takes this one
        before, size = directory.count(number), directory.size(number)
        directory.remove(number, gone)
        if number in list(directory):
            before, size = before - directory.count(number), size - directory.size(number)
        if page in log.pages:
            log.add_total(number, -before, -size)
            unit.statements.append(_page_change(directory, page))
        if not list(directory) and page < log.next_offset >> PAGE_BITS:
            log.forget_page(page)
    log.tail.remove(offsets)
    log.pruned_to[number] = max(log.pruned_to.get(number, 0), offsets[-1])


def _page_change(directory: Directory | SealedDirectory, page: int) -> tuple[str, tuple[Any, ...]]:
    if not list(directory):
        return ("DELETE FROM page WHERE page = ?", (page,))
    return ("UPDATE page SET directory = ? WHERE page = ?", (directory.packed(), page))
