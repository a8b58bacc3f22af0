"""The form in which messages lie in the file: a chunk is a run of neighbouring rows, packed into one row of SQLite.

A row of its own for every message costs twice the time to write and seven times the time to read, most of it SQLite's
per row. A chunk is small enough that one message of it can be read, or taken out, without much of the others. It never
reaches over the border of a page. Pure. Floor 2.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, TypeVar, cast

import msgpack

from broker.core.message import Row
from broker.core.offsets import PAGE_BITS

MAX_MESSAGES = 64
MAX_BYTES = 64 << 10
"""Bytes of bodies and metas in a chunk, at most (or one message)."""
LARGEST = (1 << 31) - 1

T = TypeVar("T")

Head = tuple[int, int | Sequence[int], int, int | Sequence[int], int | Sequence[int], Sequence[bytes | None] | None]
"""How many messages, their offsets (an int: the first of consecutive ones), the time at which all were published, their
topics' numbers and sizes of bodies (an int: the same for all), and their metas (None: none has one)."""

Header = tuple[int, int, int, bytes | None, int]
"""Offset, topic number, at, meta and size of body of one message."""

_pack = msgpack.Packer(autoreset=True).pack


def packed(rows: Sequence[Row], topics: Sequence[int]) -> list[Any]:
    """Rising rows of one commit, and their topics' numbers, as flat values of chunks: first offset, head, bodies."""
    values: list[Any] = []
    at, end = 0, len(rows)
    while at < end:
        stop = _end(rows, at, min(at + MAX_MESSAGES, end))
        part = rows[at:stop]
        bodies = [row[4] for row in part]
        values += (part[0][0], _pack(_head(part, topics[at:stop], bodies)), _pack(bodies))
        at = stop
    return values


def _end(rows: Sequence[Row], at: int, stop: int) -> int:
    """Where the chunk that begins at `at` ends, at `stop` or before."""
    page = rows[at][0] >> PAGE_BITS
    while rows[stop - 1][0] >> PAGE_BITS != page:
        stop -= 1
    size = sum([len(row[4]) + len(row[3] or b"") for row in rows[at:stop]])
    while size > MAX_BYTES and stop > at + 1:
        stop -= 1
        size -= len(rows[stop][4]) + len(rows[stop][3] or b"")
    return stop


def _head(
    rows: Sequence[tuple[int, object, int, bytes | None, bytes]], topics: Sequence[int], bodies: Sequence[bytes]
) -> Head:
    count, first = len(rows), rows[0][0]
    metas = [row[3] for row in rows]
    return (
        count,
        first if rows[-1][0] - first == count - 1 else [row[0] for row in rows],
        rows[0][2],
        _alike(topics),
        _alike(list(map(len, bodies))),
        metas if any(metas) else None,
    )


def _alike(values: Sequence[int]) -> int | Sequence[int]:
    return values[0] if values.count(values[0]) == len(values) else values


def unpacked(heads: bytes, bodies: bytes, topic: Callable[[int], T]) -> list[tuple[int, T, int, bytes | None, bytes]]:
    """The rows of chunks whose heads, and whose bodies, were strung together. `topic` gives what stands for a topic's
    number in them."""
    rows: list[tuple[int, T, int, bytes | None, bytes]] = []
    for head, contents in zip(_all(heads), _all(bodies), strict=True):
        topics, metas = head[3], head[5]
        rows += zip(
            _offsets(head),
            repeat(topic(topics)) if type(topics) is int else map(topic, topics),
            repeat(head[2]),
            repeat(None) if metas is None else metas,
            contents,
        )
    return rows


def headers(heads: bytes) -> list[Header]:
    """The headers of chunks whose heads were strung together."""
    found: list[Header] = []
    for head in _all(heads):
        count, _, at, topics, sizes, metas = head
        found += zip(
            _offsets(head),
            repeat(topics) if type(topics) is int else topics,
            repeat(at),
            repeat(None) if metas is None else metas,
            repeat(sizes, count) if type(sizes) is int else sizes,
        )
    return found


def offsets_of(head: bytes) -> Sequence[int]:
    """Of the messages in a chunk."""
    return _offsets(msgpack.unpackb(head, use_list=False))


def _offsets(head: Head) -> Sequence[int]:
    offsets = head[1]
    return range(offsets, offsets + head[0]) if type(offsets) is int else cast("Sequence[int]", offsets)


def without(head: bytes, bodies: bytes, gone: set[int]) -> tuple[bytes, bytes]:
    """Head and bodies of what is left of a chunk, one message at least."""
    rows = [row for row in unpacked(head, bodies, int) if row[0] not in gone]
    contents = [row[4] for row in rows]
    return _pack(_head(rows, [row[1] for row in rows], contents)), _pack(contents)


def _all(strung: bytes) -> Iterator[Any]:
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=LARGEST)
    unpacker.feed(strung)
    return cast("Iterator[Any]", unpacker)
