"""Chunks: what goes in comes out, one by one too, whatever the rows are; and what is read back from the file."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.message import Row
from broker.core.offsets import PAGE_BITS, PAGE_SIZE
from broker.engine.sqlite import chunk, reading
from broker.engine.sqlite.transaction import Batch, write

NAMES = ["", "a", "b", "c/d"]
AT = 1_700_000_000_000

metas = st.one_of(st.none(), st.binary(min_size=1, max_size=20), st.integers(1, 65_000).map(bytes))
bodies = st.one_of(st.just(b"same"), st.binary(max_size=300), st.integers(1, 70_000).map(bytes))


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Row, int]]:
    """Rows of one commit, with gaps, near the border of a page."""
    offset = draw(st.integers(1, 40)) + draw(st.sampled_from((0, PAGE_SIZE - 50)))
    rows: list[tuple[Row, int]] = []
    for gap in draw(st.lists(st.sampled_from((1, 1, 1, 1, 2, 9)), min_size=1, max_size=150)):
        offset += gap
        topic = draw(st.integers(1, 3))
        rows.append(((offset, NAMES[topic], AT, draw(metas), draw(bodies)), topic))
    return rows


def pieces(rows: list[tuple[Row, int]]) -> Iterator[tuple[int, bytes, bytes]]:
    flat = iter(chunk.packed([row for row, _ in rows], [topic for _, topic in rows]))
    yield from zip(flat, flat, flat, strict=True)


@given(batches())
def test_what_is_packed_is_unpacked(rows: list[tuple[Row, int]]) -> None:
    found = list(pieces(rows))
    heads, contents = b"".join(head for _, head, _ in found), b"".join(packed for _, _, packed in found)
    assert chunk.unpacked(heads, contents, NAMES.__getitem__) == [row for row, _ in rows]
    assert chunk.headers(heads) == [(row[0], topic, row[2], row[3], len(row[4])) for row, topic in rows]


@given(batches())
def test_a_chunk_is_small_and_lies_in_one_page(rows: list[tuple[Row, int]]) -> None:
    for first, head, packed in pieces(rows):
        offsets = chunk.offsets_of(head)
        assert first == offsets[0]
        assert offsets[0] >> PAGE_BITS == offsets[-1] >> PAGE_BITS
        assert len(offsets) <= chunk.MAX_MESSAGES
        held = [len(row[4]) + len(row[3] or b"") for row in chunk.unpacked(head, packed, NAMES.__getitem__)]
        assert sum(held) <= chunk.MAX_BYTES or len(held) == 1


@given(batches(), st.data())
def test_some_are_taken_out(rows: list[tuple[Row, int]], data: st.DataObject) -> None:
    for _, head, packed in pieces(rows):
        offsets = chunk.offsets_of(head)
        gone = set(data.draw(st.lists(st.sampled_from(offsets), max_size=len(offsets) - 1)))
        left = chunk.unpacked(*chunk.without(head, packed, gone), NAMES.__getitem__)
        assert left == [row for row, _ in rows if row[0] in set(offsets) - gone]


class Store:
    """A file with these rows, and the connection that reads it."""

    def __init__(self, path: Path) -> None:
        self.writer = sqlite3.connect(path, isolation_level=None)
        schema = Path(chunk.__file__).with_name("schema.sql").read_text("utf-8")
        self.writer.executescript(schema)
        self.reader = sqlite3.connect(path, isolation_level=None)
        self.reader.text_factory = bytes

    def write(self, batch: Batch) -> None:
        write(self.writer, batch)

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "log.db")
    yield made
    made.close()


def sized(offset: int, size: int) -> Row:
    return (offset, "a", AT, None, offset.to_bytes(4, "big") * (size // 4))


def test_rows_are_found_by_range_by_offset_and_within_bytes(store: Store) -> None:
    rows = [sized(offset, 400) for offset in range(10, 1_010)]
    for at in range(0, 1_000, 90):
        store.write(Batch(rows=rows[at : at + 90], topics=[1] * len(rows[at : at + 90])))
    db = store.reader
    assert reading.read_range(db, NAMES, 1, 5) == []
    assert reading.read_range(db, NAMES, 100, 300) == rows[90:291]
    assert reading.read_offsets(db, NAMES, [1, 10, 77, 1_009, 2_000]) == [rows[0], rows[67], rows[999]]
    assert reading.read_within(db, NAMES, [500, 20, 21, 900], 1 << 20) == (
        [rows[10], rows[11], rows[490], rows[890]],
        4,
    )
    assert reading.read_within(db, NAMES, [500, 20, 21, 900], 900) == ([rows[10], rows[490]], 2)
    assert reading.read_within(db, NAMES, range(10, 20), 100) == ([rows[0]], 1)
    assert reading.read_headers(db, 11, 12) == [(11, 1, AT, None, 400), (12, 1, AT, None, 400)]


def test_more_than_a_step_takes_is_read_in_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [sized(offset, 4_000) for offset in range(1, 200)]
    store.write(Batch(rows=rows, topics=[1] * len(rows)))
    monkeypatch.setattr(reading, "MAX_STEP", 100_000)
    assert reading.read_range(store.reader, NAMES, 1, 500) == rows
    assert reading.read_offsets(store.reader, NAMES, list(range(1, 200, 3))) == rows[::3]


def test_large_metas_are_read_in_steps_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Row] = [(offset, "a", AT, bytes(4_000), b"") for offset in range(1, 200)]
    store.write(Batch(rows=rows, topics=[1] * len(rows)))
    monkeypatch.setattr(reading, "MAX_STEP", 100_000)
    store.reader.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 200_000)
    assert reading.read_range(store.reader, NAMES, 1, 500) == rows


def test_what_was_too_much_for_a_step_may_be_gone_at_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [sized(offset, 4_000) for offset in range(1, 200)]
    store.write(Batch(rows=rows, topics=[1] * len(rows)))
    monkeypatch.setattr(reading, "MAX_STEP", 100_000)
    in_one_step = reading._step

    def remove_meanwhile(*asked: Any) -> list[Row] | None:
        found = in_one_step(*asked)
        store.write(Batch(removed=list(range(1, 200))))
        return found

    monkeypatch.setattr(reading, "_step", remove_meanwhile)
    assert reading.read_range(store.reader, NAMES, 1, 500) == []


def test_removal_leaves_the_neighbours(store: Store) -> None:
    rows = [sized(offset, 40) for offset in range(1, 301)]
    store.write(Batch(rows=rows, topics=[1] * 300))
    gone = [1, *range(60, 200), 300, 999]
    store.write(Batch(removed=gone))
    assert reading.read_range(store.reader, NAMES, 1, 300) == [row for row in rows if row[0] not in gone]
    store.write(Batch(removed=list(range(1, 301))))
    assert store.reader.execute("SELECT count(*) FROM chunk").fetchone() == (0,)
