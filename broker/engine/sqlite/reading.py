"""Reading rows back, many in one SQL step.

sqlite3 lets the interpreter's lock go around every row it steps over, and a busy loop may keep it for a switch
interval each time. So rows are packed by SQL itself: lengths and bytes come back in a single row and are cut up here.
Connections of this module return text as bytes. Floor 2.
"""

import sqlite3
from collections.abc import Sequence
from itertools import accumulate

from broker.core.message import Row

_PACK = """
SELECT group_concat(offset), group_concat(topic), group_concat(at), group_concat(ifnull(length(meta), 0)),
       group_concat(length(body)), group_concat(CAST(meta AS TEXT), ''), group_concat(CAST(body AS TEXT), '')
FROM (SELECT offset, topic, at, meta, body FROM message WHERE {where} ORDER BY offset)
"""
_RANGE = _PACK.format(where="offset BETWEEN ? AND ?")
_LIKENESS = """
SELECT count(*), min(topic), max(topic), min(length(body)), max(length(body)), sum(length(body)), count(meta),
       min(at), max(at)
FROM message WHERE offset BETWEEN ? AND ?
"""
_BODIES = """
SELECT group_concat(CAST(body AS TEXT), '') FROM (SELECT body FROM message WHERE offset BETWEEN ? AND ? ORDER BY offset)
"""
_ATS = "SELECT group_concat(at) FROM (SELECT at FROM message WHERE offset BETWEEN ? AND ? ORDER BY offset)"
MAX_STEP = 64 << 20
"""Bytes of bodies that one step returns at most (or one message): SQLite refuses a result of a gigabyte."""
_HEADERS = """
SELECT group_concat(offset), group_concat(topic), group_concat(at), group_concat(ifnull(length(meta), 0)),
       group_concat(size), group_concat(CAST(meta AS TEXT), ''), ''
FROM (SELECT offset, topic, at, meta, length(body) AS size FROM message WHERE offset BETWEEN ? AND ? ORDER BY offset)
"""

_SIZES = """
SELECT group_concat(offset), group_concat(size)
FROM (SELECT offset, length(body) AS size FROM message WHERE offset IN ({marks}))
"""


def read_range(db: sqlite3.Connection, names: Sequence[str], first: int, last: int) -> list[Row]:
    """All rows from `first` to `last`, both included. `names`: of topics, by number."""
    return _read_alike(db, names, first, last, db.execute(_LIKENESS, (first, last)).fetchone())


def read_within(
    db: sqlite3.Connection, names: Sequence[str], offsets: Sequence[int], size: int
) -> tuple[list[Row], int]:
    """As many of these offsets (in any order), from the first on, as have bodies of `size` bytes together, one at
    least: the rows that are still there, rising, and how many offsets that are."""
    first, last = offsets[0], offsets[-1]
    if last - first == len(offsets) - 1 and (len(offsets) < 2 or offsets[1] == first + 1):
        likeness = db.execute(_LIKENESS, (first, last)).fetchone()
        if (likeness[5] or 0) <= size:
            return _read_alike(db, names, first, last, likeness), len(offsets)
    count = _count_within(db, offsets, size)
    return read_offsets(db, names, sorted(offsets[:count])), count


def _read_alike(
    db: sqlite3.Connection, names: Sequence[str], first: int, last: int, likeness: tuple[int, ...]
) -> list[Row]:
    count, topic, topic2, size, size2, total, metas, at, at2 = likeness
    if not count:
        return []
    if total > MAX_STEP and last > first:
        middle = (first + last) // 2
        return read_range(db, names, first, middle) + read_range(db, names, middle + 1, last)
    if count != last - first + 1 or topic != topic2 or size != size2 or metas or not size:
        return _unpacked(db.execute(_RANGE, (first, last)).fetchone(), names)
    # The commonest case, cut up cheaply: no gap, one topic, one size, no meta.
    bodies = db.execute(_BODIES, (first, last)).fetchone()[0]
    ats = [at] * count if at == at2 else list(map(int, db.execute(_ATS, (first, last)).fetchone()[0].split(b",")))
    name = names[topic]
    starts = range(0, count * size, size)
    return [
        (offset, name, at, None, bodies[start : start + size])
        for offset, at, start in zip(range(first, last + 1), ats, starts, strict=True)
    ]


def read_offsets(db: sqlite3.Connection, names: Sequence[str], offsets: Sequence[int]) -> list[Row]:
    """The rows of these rising offsets that are still there."""
    if offsets[-1] - offsets[0] == len(offsets) - 1:
        return read_range(db, names, offsets[0], offsets[-1])
    rows: list[Row] = []
    at = 0
    while at < len(offsets):
        part = offsets[at : at + 1_000]
        part = part[: _count_within(db, part, MAX_STEP)]
        marks = ",".join("?" * len(part))
        rows += _unpacked(db.execute(_PACK.format(where=f"offset IN ({marks})"), part).fetchone(), names)
        at += len(part)
    return rows


def _count_within(db: sqlite3.Connection, offsets: Sequence[int], size: int) -> int:
    """How many of these offsets, from the first on, have bodies of `size` bytes together; one at least."""
    sizes: dict[int, int] = {}
    for at in range(0, len(offsets), 1_000):
        part = offsets[at : at + 1_000]
        sizes.update(_sizes(db, part))
    for count, total_size in enumerate(accumulate(sizes.get(offset, 0) for offset in offsets)):
        if total_size > size:
            return max(count, 1)
    return len(offsets)


def _sizes(db: sqlite3.Connection, offsets: Sequence[int]) -> dict[int, int]:
    found = db.execute(_SIZES.format(marks=",".join("?" * len(offsets))), offsets).fetchone()
    if found[0] is None:
        return {}
    return dict(zip(map(int, found[0].split(b",")), map(int, found[1].split(b",")), strict=True))


def read_headers(db: sqlite3.Connection, first: int, last: int) -> list[tuple[int, int, int, bytes | None, int]]:
    """(offset, topic number, at, meta, size of body) of a range, bodies left where they are."""
    found = db.execute(_HEADERS, (first, last)).fetchone()
    if found[0] is None:
        return []
    offsets, topics, ats, lengths, sizes = (list(map(int, column.split(b","))) for column in found[:5])
    return list(zip(offsets, topics, ats, _cut_metas(lengths, found[5]), sizes, strict=True))


def _unpacked(found: tuple[bytes | None, ...], names: Sequence[str]) -> list[Row]:
    if found[0] is None:
        return []
    offsets, topics, ats, lengths, sizes = (list(map(int, column.split(b","))) for column in found[:5] if column)
    ends = list(accumulate(sizes))
    bodies = found[6] or b""
    cut = [bodies[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    topic_names = [names[topic] for topic in topics]
    return list(zip(offsets, topic_names, ats, _cut_metas(lengths, found[5]), cut, strict=True))


def _cut_metas(lengths: list[int], packed: bytes | None) -> list[bytes | None]:
    if packed is None:
        return [None] * len(lengths)
    metas: list[bytes | None] = []
    at = 0
    for length in lengths:
        metas.append(packed[at : at + length] if length else None)
        at += length
    return metas
