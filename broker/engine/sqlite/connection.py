"""Opening the file: pragmas, schema, versions, and one crossing to aiosqlite's thread per piece of work.

A whole function crosses, not a statement: a hop costs more than the statements of a small commit. Floor 2.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import aiosqlite

from broker.core.errors import BrokerError, Code

APPLICATION_ID = 0x506F7374  # "Post"
VERSION = 1
T = TypeVar("T")


class Connection(aiosqlite.Connection):
    """aiosqlite's connection and thread, entered by whole functions."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work(connection)` on the thread. When the caller is cancelled the work is still done to its end."""
        result: T = await asyncio.shield(self._execute(work, self._conn))  # type: ignore[no-untyped-call]
        return result


async def open_writer(path: Path, page_cache: int) -> Connection:
    """The one connection that writes and checkpoints. Raises BrokerError(STORAGE_FAILED) with the mend."""
    connection = Connection(lambda: _connect(f"file:{_quoted(path)}"), iter_chunk_size=64)
    try:
        await connection
        await connection.run(lambda db: _prepare(db, path, page_cache))
    except sqlite3.DatabaseError as error:
        await connection.close()
        raise BrokerError(
            Code.STORAGE_FAILED, f"{path}: {error}; check permissions and free space, or restore a backup"
        ) from error
    except BaseException:
        await connection.close()
        raise
    return connection


async def open_reader(path: Path) -> Connection:
    """A connection that only reads; text comes back as bytes, because packed columns are not always UTF-8."""

    def connect() -> sqlite3.Connection:
        db = _connect(f"file:{_quoted(path)}?mode=ro")
        db.execute("PRAGMA query_only = 1")
        db.text_factory = bytes
        return db

    connection = Connection(connect, iter_chunk_size=64)
    await connection
    return connection


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)


def _prepare(db: sqlite3.Connection, path: Path, page_cache: int) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    fresh = not version and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not fresh and application != APPLICATION_ID:
        raise BrokerError(Code.STORAGE_FAILED, f"{path} is not a Postroom file; name another data folder")
    if version > VERSION:
        raise BrokerError(
            Code.STORAGE_FAILED, f"{path} has schema {version}, this program knows {VERSION}: upgrade postroom"
        )
    if fresh:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise BrokerError(Code.STORAGE_FAILED, f"{path}: this file system does not do WAL; use a local disk")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA fullfsync = 1")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute(f"PRAGMA cache_size = -{page_cache >> 10}")
    if fresh:
        schema = files("broker.engine.sqlite").joinpath("schema.sql").read_text("utf-8")
        db.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {VERSION}; COMMIT;")
