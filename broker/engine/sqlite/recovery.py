"""Start: from the file to a running engine. What was outstanding is ready again; an unclean stop is checked for damage.

Floor 2.
"""

import json
import logging
import os
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgpack
from pyroaring import BitMap, BitMap64

from broker.core.offsets import PAGE_BITS
from broker.core.record import Record
from broker.core.spec import stored_spec
from broker.core.topic import Trie
from broker.engine.sqlite.connection import damage, transaction, unusable
from broker.engine.sqlite.handles import QueueHandle
from broker.engine.sqlite.log import PageInfo, SealedDirectory, Totals
from broker.engine.sqlite.replay import lifted
from broker.engine.sqlite.watermark import begin_epoch

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

logger = logging.getLogger(__name__)


async def recover(engine: "SqliteEngine") -> None:
    """Rebuild what lives in memory. Raises BrokerError(STORAGE_FAILED) with the mend, as for a damaged file."""
    try:
        await _recover(engine)
    except sqlite3.Error as error:
        raise unusable(engine.path, error) from error


async def _recover(engine: "SqliteEngine") -> None:
    size = engine.path.stat().st_size
    state = await engine.connection.run(lambda db: _open(db, size, engine.options.check_limit))
    loaded = await engine.connection.run(_load)
    if not engine.watermark.fits(state["epoch"], state["next_offset"]):
        logger.warning("the file is a restored or older copy: the log begins a new epoch")
        await engine.connection.run(lambda db: begin_epoch(db, state))
    # At once, not at the first upkeep: a log killed before that must not be taken for a restored one.
    engine.watermark.write(state["epoch"], state["next_offset"], lasting=True)
    engine.log.epoch = state["epoch"]
    engine.log.next_offset = state["next_offset"]
    engine.log.end = state["next_offset"] - 1
    engine.next_revision = state["next_revision"]
    _take_topics(engine, loaded)
    for id_, sequence, refused in loaded["publishers"]:
        engine.publishers[id_] = (sequence, list(msgpack.unpackb(refused, use_list=False)) if refused else [])
    await _open_pages(engine)
    engine.log.tail.clear(engine.log.end)
    await _subscriptions(engine, loaded)
    logger.info("recovered", extra={"messages_end": engine.log.end, "subscriptions": len(engine.catalog.handles)})


def _open(db: sqlite3.Connection, size: int, check_limit: int) -> dict[str, Any]:
    state = dict(db.execute("SELECT name, value FROM state").fetchall())
    if not state:
        state = {"epoch": os.urandom(4).hex(), "next_offset": 1, "next_revision": 1, "ids": 0, "clean": 0}
        with transaction(db):
            db.executemany("INSERT INTO state VALUES (?,?)", state.items())
        return state
    if not state.get("clean") and size > check_limit:
        logger.warning("the file is too large to be checked at start; its own recovery has run", extra={"bytes": size})
    elif not state.get("clean"):
        result = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if result != "ok":
            raise damage(result)
    with transaction(db):
        db.execute("UPDATE state SET value = 0 WHERE name = 'clean'")
        # A queue that was just being made may have had progress before it was on disk; its number is given anew.
        for table in ("progress", "settled", "redelivery"):
            db.execute(f"DELETE FROM {table} WHERE subscription NOT IN (SELECT id FROM subscription)")  # noqa: S608
    return state


def _load(db: sqlite3.Connection) -> dict[str, Any]:
    def all_of(sql: str) -> list[Any]:
        return db.execute(sql).fetchall()

    return {
        "topics": all_of("SELECT id, name, pruned_to FROM topic"),
        "pages": _load_pages(db),
        "publishers": all_of("SELECT id, sequence, refused FROM publisher"),
        "subscriptions": all_of(
            "SELECT id, name, spec, paused, floor FROM subscription JOIN progress ON subscription = id"
        ),
        "filters": all_of("SELECT subscription, filter, since, until FROM filter"),
        "settled": all_of("SELECT subscription, page, offsets FROM settled"),
        "records": all_of("SELECT subscription, offset, record FROM redelivery"),
    }


def _load_pages(db: sqlite3.Connection) -> tuple[dict[int, PageInfo], dict[int, Totals]]:
    """What is kept of every page, one directory at a time."""
    pages: dict[int, PageInfo] = {}
    totals: dict[int, Totals] = {}
    for page, first_at, last_at, special, packed in db.execute(
        "SELECT page, first_at, last_at, special, directory FROM page ORDER BY page"
    ):
        pages[page] = PageInfo(first_at, last_at, bool(special))
        directory = SealedDirectory(page, packed)
        for topic in directory:
            total = totals.setdefault(topic, Totals())
            total.messages += directory.count(topic)
            total.bytes += directory.size(topic)
    return pages, totals


def _take_topics(engine: "SqliteEngine", loaded: dict[str, Any]) -> None:
    log = engine.log
    for number, name, pruned_to in loaded["topics"]:
        log.numbers.restore(number, name)
        if pruned_to:
            log.pruned_to[number] = pruned_to
    log.pages, log.sealed_totals = loaded["pages"]
    log.last_at = max((info.last_at for info in log.pages.values()), default=0)


async def _open_pages(engine: "SqliteEngine") -> None:
    """The directories of pages that were not sealed, from their rows' headers."""
    log = engine.log
    first = (max(log.pages, default=-1) + 1) << PAGE_BITS
    async for headers in engine.replay.headers_between(first, log.next_offset - 1):
        for offset, topic, at, meta, size in headers:
            log.directory(offset >> PAGE_BITS).restore(offset, topic, at, meta, size)
            log.last_at = max(log.last_at, at)


async def _subscriptions(engine: "SqliteEngine", loaded: dict[str, Any]) -> None:
    queues: dict[int, QueueHandle] = {}
    for number, name, text, paused, floor in loaded["subscriptions"]:
        spec = stored_spec(name, json.loads(text))
        handle = engine.catalog.adopt(number, spec, floor)
        engine.catalog.next_number = max(engine.catalog.next_number, number + 1)
        if isinstance(handle, QueueHandle):
            handle.queue.paused = bool(paused)
            queues[number] = handle
    outstanding = await _outstanding(engine, loaded, queues)
    settled: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
    for number, page, packed in loaded["settled"]:
        settled[number].append((page, packed))
    records: dict[int, dict[int, Record]] = defaultdict(dict)
    for number, offset, packed in loaded["records"]:
        records[number][offset] = Record(*msgpack.unpackb(packed))
    for number, handle in queues.items():
        waiting = outstanding.get(number, BitMap64())
        for page, packed in settled[number]:
            handle.persisted_pages.add(page)
            waiting -= lifted(BitMap.deserialize(packed), page)
        handle.queue.restore(waiting)
        if waiting:
            await engine.catalog.restore_headers(handle.queue, waiting)
        handle.queue.restored(records[number], engine.log.end, handed=True)
        engine.alarms.touch(handle)


async def _outstanding(
    engine: "SqliteEngine", loaded: dict[str, Any], queues: dict[int, QueueHandle]
) -> dict[int, BitMap64]:
    """Every queue's matching offsets above its floor, in one pass over the directories."""
    trie: Trie[tuple[int, int, int]] = Trie()
    for number, text, since, until in loaded["filters"]:
        if number in queues:
            floor = queues[number].queue.scanned
            trie.add(text, (number, max(since, floor), engine.log.end if until is None else until))
    found: dict[int, BitMap64] = defaultdict(BitMap64)
    lowest = min((h.queue.scanned for h in queues.values()), default=engine.log.end)
    for page in engine.log.all_pages():
        if (page + 1) << PAGE_BITS <= lowest + 1:
            continue
        directory = await engine.replay.directory(page)
        if directory is None:
            continue
        for topic in directory:
            matching = list(trie.match(engine.log.numbers.names[topic]))
            if matching:
                offsets = lifted(directory[topic], page)
                for number, since, until in matching:
                    _add_between(found[number], offsets, since, until)
    return found


def _add_between(found: BitMap64, offsets: BitMap64, since: int, until: int) -> None:
    if offsets.max() <= since or offsets.min() > until:
        return
    if offsets.min() <= since or offsets.max() > until:
        offsets = offsets.copy()
        offsets.remove_range(0, since + 1)
        offsets.remove_range(until + 1, 1 << 62)
    found |= offsets
