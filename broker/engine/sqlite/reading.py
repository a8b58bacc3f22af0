"""Reading messages back, many in one SQL step.

sqlite3 lets the interpreter's lock go around every row it steps over, and a busy loop may keep it for a switch
interval each time. So chunks are strung together by SQL itself and come back in a single row. Connections of this
module return text as bytes. Floor 2.
"""

import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate

from broker.core.message import Row
from broker.engine.sqlite import chunk
from broker.engine.sqlite.chunk import Header

WITHIN = "first BETWEEN ifnull((SELECT max(first) FROM chunk WHERE first <= :first), 0) AND :last"
"""The chunks that may hold offsets from the one to the other."""
HOLDING = "first IN (SELECT (SELECT max(first) FROM chunk WHERE first <= value) FROM json_each(:offsets))"
"""The chunks that may hold the offsets of a JSON list."""
_THESE = "first IN (SELECT value FROM json_each(:firsts))"
_HEADS = "SELECT group_concat(head, '') FROM (SELECT head FROM chunk WHERE {where} ORDER BY first)"
_SIZES = """
SELECT group_concat(first), group_concat(size)
FROM (SELECT first, length(head) + length(bodies) AS size FROM chunk WHERE {where} ORDER BY first)
"""
_ROWS = """
WITH asked AS (SELECT total(length(head) + length(bodies)) AS size FROM chunk WHERE {where})
SELECT (SELECT size FROM asked), group_concat(head, ''), group_concat(bodies, '')
FROM (SELECT head, bodies FROM chunk WHERE {where} AND (SELECT size FROM asked) <= :most ORDER BY first)
"""
MAX_STEP = 64 << 20
"""Bytes of chunks that one step returns at most (or one chunk): SQLite refuses a result of a gigabyte."""

Where = tuple[str, dict[str, object]]
"""A condition on chunks, and the values of its parameters."""


def read_range(db: sqlite3.Connection, names: Sequence[str], first: int, last: int) -> list[Row]:
    """All rows from `first` to `last`, both included. `names`: of topics, by number."""
    return _between(_rows(db, names, _range(first, last)), first, last)


def read_offsets(db: sqlite3.Connection, names: Sequence[str], offsets: Sequence[int]) -> list[Row]:
    """The rows of these rising offsets that are still there."""
    return _only(_rows(db, names, _where(offsets)), offsets)


def read_within(
    db: sqlite3.Connection, names: Sequence[str], offsets: Sequence[int], size: int
) -> tuple[list[Row], int]:
    """As many of these offsets (in any order), from the first on, as have bodies of `size` bytes together, one at
    least: the rows that are still there, rising, and how many offsets that are."""
    rising = sorted(offsets)
    where = _where(rising)
    rows = _step(db, names, where, size)
    if rows is not None:
        return _only(rows, rising), len(offsets)
    count = _count_within(db, where, offsets, size)
    return read_offsets(db, names, sorted(offsets[:count])), count


def read_headers(db: sqlite3.Connection, first: int, last: int) -> list[Header]:
    """The headers of a range; bodies are left where they are."""
    return [header for header in _headers(db, _range(first, last)) if first <= header[0] <= last]


def _range(first: int, last: int) -> Where:
    return WITHIN, {"first": first, "last": last}


def _where(rising: Sequence[int]) -> Where:
    if rising[-1] - rising[0] == len(rising) - 1:
        return _range(rising[0], rising[-1])
    return HOLDING, {"offsets": json.dumps(rising)}


def _headers(db: sqlite3.Connection, where: Where) -> list[Header]:
    return chunk.headers(db.execute(_HEADS.format(where=where[0]), where[1]).fetchone()[0] or b"")


def _rows(db: sqlite3.Connection, names: Sequence[str], where: Where) -> list[Row]:
    """All rows of the chunks that are found."""
    rows = _step(db, names, where, MAX_STEP)
    if rows is not None:
        return rows
    found: list[Row] = []
    for firsts in _steps(db, where):
        found += _step(db, names, (_THESE, {"firsts": json.dumps(firsts)}), sys.maxsize) or ()
    return found


def _step(db: sqlite3.Connection, names: Sequence[str], where: Where, most: int) -> list[Row] | None:
    """The same in one step; None when they take more than `most` bytes."""
    values = {**where[1], "most": most}
    size, heads, bodies = db.execute(_ROWS.format(where=where[0]), values).fetchone()
    return None if size > most else chunk.unpacked(heads or b"", bodies or b"", names.__getitem__)


def _steps(db: sqlite3.Connection, where: Where) -> Iterator[list[int]]:
    """The first offsets of the chunks that are found, in pieces of MAX_STEP bytes."""
    firsts, sizes = db.execute(_SIZES.format(where=where[0]), where[1]).fetchone()
    if firsts is None:
        return  # retention took them since they were found to be many
    step: list[int] = []
    weight = 0
    for first, size in zip(map(int, firsts.split(b",")), map(int, sizes.split(b",")), strict=True):
        if step and weight + size > MAX_STEP:
            yield step
            step, weight = [], 0
        step.append(first)
        weight += size
    yield step


def _between(rows: list[Row], first: int, last: int) -> list[Row]:
    """Chunks reach beyond what was asked for at both ends."""
    if rows and (rows[0][0] < first or rows[-1][0] > last):
        return [row for row in rows if first <= row[0] <= last]
    return rows


def _only(rows: list[Row], rising: Sequence[int]) -> list[Row]:
    if rising[-1] - rising[0] == len(rising) - 1:
        return _between(rows, rising[0], rising[-1])
    wanted = set(rising)
    return [row for row in rows if row[0] in wanted]


def _count_within(db: sqlite3.Connection, where: Where, offsets: Sequence[int], size: int) -> int:
    """How many of these offsets, from the first on, have bodies of `size` bytes together; one at least."""
    sizes = {header[0]: header[4] for header in _headers(db, where)}
    for count, total_size in enumerate(accumulate(sizes.get(offset, 0) for offset in offsets)):
        if total_size > size:
            return max(count, 1)
    return len(offsets)
