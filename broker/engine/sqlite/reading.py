"""Reading rows back, many in one SQL step.

sqlite3 lets the interpreter's lock go around every row it steps over, and a busy loop may keep it for a switch
interval each time. So rows are packed by SQL itself: lengths and bytes come back in a single row and are cut up here.
Connections of this module return text as bytes. Floor 2.
"""

import sqlite3
from collections.abc import Sequence
from itertools import accumulate

NumberedRow = tuple[int, int, int, bytes | None, bytes]
"""(offset, topic number, at, meta, body)."""

_PACK = """
SELECT group_concat(offset), group_concat(topic), group_concat(at), group_concat(ifnull(length(meta), 0)),
       group_concat(length(body)), group_concat(CAST(meta AS TEXT), ''), group_concat(CAST(body AS TEXT), '')
FROM (SELECT offset, topic, at, meta, body FROM message WHERE {where} ORDER BY offset)
"""
_RANGE = _PACK.format(where="offset BETWEEN ? AND ?")
_HEADERS = """
SELECT group_concat(offset), group_concat(topic), group_concat(at), group_concat(ifnull(length(meta), 0)),
       group_concat(size), group_concat(CAST(meta AS TEXT), ''), ''
FROM (SELECT offset, topic, at, meta, length(body) AS size FROM message WHERE offset BETWEEN ? AND ? ORDER BY offset)
"""


def read_range(db: sqlite3.Connection, first: int, last: int) -> list[NumberedRow]:
    """All rows from `first` to `last`, both included."""
    return _unpacked(db.execute(_RANGE, (first, last)).fetchone())


def read_offsets(db: sqlite3.Connection, offsets: Sequence[int]) -> list[NumberedRow]:
    """The rows of these offsets that are still there, in order."""
    if offsets[-1] - offsets[0] == len(offsets) - 1:
        return read_range(db, offsets[0], offsets[-1])
    rows: list[NumberedRow] = []
    for at in range(0, len(offsets), 1_000):
        part = offsets[at : at + 1_000]
        marks = ",".join("?" * len(part))
        rows += _unpacked(db.execute(_PACK.format(where=f"offset IN ({marks})"), part).fetchone())
    return rows


def read_headers(db: sqlite3.Connection, first: int, last: int) -> list[tuple[int, int, int, bytes | None, int]]:
    """(offset, topic number, at, meta, size of body) of a range, bodies left where they are."""
    found = db.execute(_HEADERS, (first, last)).fetchone()
    if found[0] is None:
        return []
    offsets, topics, ats, lengths, sizes = (list(map(int, column.split(b","))) for column in found[:5])
    return list(zip(offsets, topics, ats, _cut_metas(lengths, found[5]), sizes, strict=True))


def _unpacked(found: tuple[bytes | None, ...]) -> list[NumberedRow]:
    if found[0] is None:
        return []
    offsets, topics, ats, lengths, sizes = (list(map(int, column.split(b","))) for column in found[:5] if column)
    ends = list(accumulate(sizes))
    bodies = found[6] or b""
    cut = [bodies[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return list(zip(offsets, topics, ats, _cut_metas(lengths, found[5]), cut, strict=True))


def _cut_metas(lengths: list[int], packed: bytes | None) -> list[bytes | None]:
    if packed is None:
        return [None] * len(lengths)
    metas: list[bytes | None] = []
    at = 0
    for length in lengths:
        metas.append(packed[at : at + length] if length else None)
        at += length
    return metas
