"""Step 2 of the journey: what runs on the writer's thread, one transaction per batch.

The interpreter's lock is let go and taken again around every SQL step, and a busy loop may keep it for a whole switch
interval each time; so many rows go in one statement. Floor 2.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from broker.core.message import Row, packed_meta, unpack_meta
from broker.engine.sqlite import chunk
from broker.engine.sqlite.reading import HOLDING

_SIZES = tuple(1 << power for power in range(12, -1, -1))


@dataclass(slots=True)
class DeadLetter:
    """Copy the message at `original` to `topic` at `offset`, with the history in its meta."""

    original: int
    offset: int
    topic: int
    history: list[dict[str, Any]]
    source: dict[str, Any]


@dataclass(slots=True)
class Batch:
    """One transaction, as plain values for SQL. `topics` is parallel to `rows` (numbers of the rows' topics)."""

    rows: list[Row] = field(default_factory=list)
    topics: list[int] = field(default_factory=list)
    at: int = 0
    named: list[int] = field(default_factory=list)  # indexes of rows that carry an id of their publisher's
    new_topics: list[tuple[int, str]] = field(default_factory=list)
    next_offset: int | None = None
    publishers: list[tuple[str, int, int, bytes | None]] = field(default_factory=list)
    floors: list[tuple[int, int]] = field(default_factory=list)
    settled: list[tuple[int, int, bytes]] = field(default_factory=list)
    unsettled_pages: list[tuple[int, int]] = field(default_factory=list)
    settled_below: list[tuple[int, int]] = field(default_factory=list)
    records: list[tuple[int, int, bytes]] = field(default_factory=list)
    forgotten: list[tuple[int, int]] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    sets: list[tuple[str, bytes, int]] = field(default_factory=list)
    unset: list[tuple[str]] = field(default_factory=list)
    next_revision: int | None = None
    scheduled: list[tuple[str, str, int, bytes | None, bytes, int]] = field(default_factory=list)
    unscheduled: list[tuple[str, str]] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    pages: list[tuple[int, int, int, int, bytes]] = field(default_factory=list)
    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Is there anything that must reach the disk?"""
        return any(getattr(self, name) for name in self.__slots__ if name not in ("at", "topics", "named"))


@dataclass(slots=True)
class Outcome:
    """What only the transaction could know: duplicates (index of the row → offset of the first) and the dead letters'
    rows."""

    duplicates: dict[int, int] = field(default_factory=dict)
    dead: list[tuple[Row, int]] = field(default_factory=list)
    seconds: float = 0.0
    fsync_seconds: float = 0.0


def write(db: sqlite3.Connection, batch: Batch, fsync_delay: float = 0.0) -> Outcome:
    """Do all of it and commit, or raise with nothing done."""
    started = time.perf_counter()
    outcome = Outcome()
    try:
        db.execute("BEGIN IMMEDIATE")
        if batch.new_topics:
            insert(db, "INSERT INTO topic (id, name) VALUES %s", 2, list(chain.from_iterable(batch.new_topics)))
        if batch.rows:
            _write_messages(db, batch, outcome)
        if batch.publishers:
            flat = list(chain.from_iterable(batch.publishers))
            insert(db, "INSERT OR REPLACE INTO publisher (id, sequence, at, refused) VALUES %s", 4, flat)
        _write_progress(db, batch)
        if batch.dead:
            _write_dead(db, batch, outcome)
        _write_rest(db, batch)
        if batch.next_offset is not None:
            db.execute("UPDATE state SET value = ? WHERE name = 'next_offset'", (batch.next_offset,))
        syncing = time.perf_counter()
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    if fsync_delay:
        time.sleep(fsync_delay)
    ended = time.perf_counter()
    outcome.seconds, outcome.fsync_seconds = ended - started, ended - syncing
    return outcome


def insert(db: sqlite3.Connection, statement: str, width: int, values: Sequence[Any]) -> int:
    """Run `statement` (ending in VALUES) for flat `values`, many rows a step; returns how many rows it changed."""
    row = "(" + ",".join("?" * width) + ")"
    at, changed = 0, 0
    left = len(values) // width
    for size in _SIZES:
        while left >= size:
            sql = statement.replace("%s", ",".join([row] * size))
            changed += db.execute(sql, values[at : at + size * width]).rowcount
            at += size * width
            left -= size
    return changed


def _write_messages(db: sqlite3.Connection, batch: Batch, outcome: Outcome) -> None:
    if batch.named:
        _find_duplicates(db, batch, outcome)
    rows, topics = batch.rows, batch.topics
    if outcome.duplicates:
        keep = [i for i in range(len(rows)) if i not in outcome.duplicates]
        rows, topics = [rows[i] for i in keep], [topics[i] for i in keep]
    _store(db, rows, topics)


def _store(db: sqlite3.Connection, rows: Sequence[Row], topics: Sequence[int]) -> None:
    if rows:
        insert(db, "INSERT INTO chunk (first, head, bodies) VALUES %s", 3, chunk.packed(rows, topics))


def _find_duplicates(db: sqlite3.Connection, batch: Batch, outcome: Outcome) -> None:
    """Enter the ids; those that were there already make their rows duplicates of an earlier offset."""
    keys = [(unpack_meta(batch.rows[i][3])["id"], batch.topics[i]) for i in batch.named]
    offsets = [batch.rows[i][0] for i in batch.named]
    firsts = dict(zip(reversed(keys), reversed(offsets), strict=True))  # the first of a key wins
    found = _known(db, "dedup_old", firsts)
    fresh = sorted([(key, offset) for key, offset in firsts.items() if key not in found])
    flat: list[Any] = [None] * (3 * len(fresh))
    flat[0::3] = [key[0] for key, _ in fresh]
    flat[1::3] = [key[1] for key, _ in fresh]
    flat[2::3] = [offset for _, offset in fresh]
    entered = insert(db, "INSERT OR IGNORE INTO dedup_young (id, topic, offset) VALUES %s", 3, flat)
    db.execute("UPDATE state SET value = value + ? WHERE name = 'ids'", (entered,))
    if entered < len(fresh):
        found |= _known(db, "dedup_young", firsts)
    if len(firsts) < len(keys) or found:
        for i, key, offset in zip(batch.named, keys, offsets, strict=True):
            original = found.get(key, firsts[key])
            if original != offset:
                outcome.duplicates[i] = original


def _known(db: sqlite3.Connection, table: str, keys: Any) -> dict[tuple[str, int], int]:
    if table == "dedup_old" and db.execute("SELECT 1 FROM dedup_old LIMIT 1").fetchone() is None:
        return {}
    found: dict[tuple[str, int], int] = {}
    wanted = list(keys)
    for at in range(0, len(wanted), 500):
        part = wanted[at : at + 500]
        marks = ",".join(["(?,?)"] * len(part))
        sql = f"SELECT id, topic, offset FROM {table} WHERE (id, topic) IN (VALUES {marks})"  # noqa: S608
        for id_, topic, offset in db.execute(sql, list(chain.from_iterable(part))):
            found[id_, topic] = offset
    return found


def _write_progress(db: sqlite3.Connection, batch: Batch) -> None:
    if batch.floors:
        flat: list[Any] = list(chain.from_iterable(batch.floors))
        sql = "INSERT INTO progress (subscription, floor) VALUES %s ON CONFLICT DO UPDATE SET floor = excluded.floor"
        insert(db, sql, 2, flat)
    if batch.settled:
        flat = list(chain.from_iterable(batch.settled))
        insert(db, "INSERT OR REPLACE INTO settled (subscription, page, offsets) VALUES %s", 3, flat)
    if batch.records:
        flat = list(chain.from_iterable(batch.records))
        insert(db, "INSERT OR REPLACE INTO redelivery (subscription, offset, record) VALUES %s", 3, flat)
    for sql, rows in (
        ("DELETE FROM settled WHERE subscription = ? AND page = ?", batch.unsettled_pages),
        ("DELETE FROM settled WHERE subscription = ? AND page < ?", batch.settled_below),
        ("DELETE FROM redelivery WHERE subscription = ? AND offset = ?", batch.forgotten),
    ):
        if rows:
            db.executemany(sql, rows)


def _write_dead(db: sqlite3.Connection, batch: Batch, outcome: Outcome) -> None:
    for dead in batch.dead:
        found = _find(db, dead.original)
        if found is None:
            continue
        _, topic, _, packed, body = found
        meta = unpack_meta(packed)
        meta.setdefault("topic", topic)
        meta.pop("expires_at", None)
        meta["history"] = [*meta.get("history", []), *dead.history]
        meta["source"] = {**dead.source, "offset": dead.original}
        row: Row = (dead.offset, "", batch.at, packed_meta(meta), body)
        outcome.dead.append((row, dead.topic))
    _store(db, [row for row, _ in outcome.dead], [topic for _, topic in outcome.dead])


def _find(db: sqlite3.Connection, offset: int) -> Row | None:
    def name(number: int) -> str:
        found: str = db.execute("SELECT name FROM topic WHERE id = ?", (number,)).fetchone()[0]
        return found

    sql = "SELECT head, bodies FROM chunk WHERE first <= ? ORDER BY first DESC LIMIT 1"
    for head, bodies in db.execute(sql, (offset,)).fetchall():
        return next((row for row in chunk.unpacked(head, bodies, name) if row[0] == offset), None)
    return None


def _remove(db: sqlite3.Connection, offsets: Sequence[int]) -> None:
    """Take these messages out of their chunks; a chunk that has none left goes."""
    gone = set(offsets)
    emptied: list[int] = []
    sql = f"SELECT first, head FROM chunk WHERE {HOLDING}"  # noqa: S608
    for first, head in db.execute(sql, {"offsets": json.dumps(offsets)}).fetchall():
        held = chunk.offsets_of(head)
        if gone.issuperset(held):
            emptied.append(first)
        elif not gone.isdisjoint(held):
            bodies = db.execute("SELECT bodies FROM chunk WHERE first = ?", (first,)).fetchone()[0]
            left = chunk.without(head, bodies, gone)
            db.execute("UPDATE chunk SET head = ?, bodies = ? WHERE first = ?", (*left, first))
    if emptied:
        db.execute("DELETE FROM chunk WHERE first IN (SELECT value FROM json_each(?))", (json.dumps(emptied),))


def _write_rest(db: sqlite3.Connection, batch: Batch) -> None:
    if batch.sets:
        flat = list(chain.from_iterable(batch.sets))
        insert(db, "INSERT OR REPLACE INTO kv (key, value, revision) VALUES %s", 3, flat)
    if batch.next_revision is not None:
        db.execute("UPDATE state SET value = ? WHERE name = 'next_revision'", (batch.next_revision,))
    if batch.scheduled:
        _write_schedule(db, batch)
    for sql, rows in (
        ("DELETE FROM kv WHERE key = ?", batch.unset),
        ("DELETE FROM schedule WHERE id = ? AND topic = ?", batch.unscheduled),
        ("INSERT OR REPLACE INTO page VALUES (?,?,?,?,?)", batch.pages),
    ):
        if rows:
            db.executemany(sql, rows)
    if batch.removed:
        _remove(db, batch.removed)
    for sql, values in batch.statements:
        db.execute(sql, values)


def _write_schedule(db: sqlite3.Connection, batch: Batch) -> None:
    """A scheduled message whose publisher named it enters the ids now, so that a retry does not store it twice."""
    for id_, topic, due, meta, body, number in batch.scheduled:
        if number:
            known = _known(db, "dedup_old", [(id_, number)])
            sql = "INSERT OR IGNORE INTO dedup_young VALUES (?,?,-1)"
            if known or not db.execute(sql, (id_, number)).rowcount:
                continue
        db.execute("INSERT OR IGNORE INTO schedule VALUES (?,?,?,?,?)", (id_, topic, due, meta, body))
