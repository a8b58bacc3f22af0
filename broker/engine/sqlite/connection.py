"""Opening the file: pragmas, schema, versions, and one crossing to aiosqlite's thread per piece of work.

A whole function crosses, not a statement: a hop costs more than the statements of a small commit. Floor 2.
"""

import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import aiosqlite

from broker.core.errors import BrokerError, Code

APPLICATION_ID = 0x506F7374  # "Post"
VERSION = 2
BUSY_SECONDS = 5
"""How long a commit waits for another program that writes, which none should."""
_RIGHTS = "give this user the right to read and write it and its folder"
_DAMAGED = 'restore a backup; without one, "Back up" in the README says how to save what can be read'
_MENDS = {
    sqlite3.SQLITE_FULL: "free space on its disk; the file ballast beside it may be deleted",
    sqlite3.SQLITE_IOERR: "the disk failed or is full: free space, or look into the system's log",
    sqlite3.SQLITE_BUSY: "another program has it open for writing: end that first",
    sqlite3.SQLITE_CANTOPEN: _RIGHTS,
    sqlite3.SQLITE_PERM: _RIGHTS,
    sqlite3.SQLITE_READONLY: _RIGHTS,
    sqlite3.SQLITE_NOTADB: "it is no database of Postroom's: name another data folder, or restore a backup",
}
T = TypeVar("T")


class Connection(aiosqlite.Connection):
    """aiosqlite's connection and thread, entered by whole functions."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work(connection)` on the thread. When the caller is cancelled the work is still done to its end: what is
        on its way to the thread comes there, and nobody waits for the answer. (No task for it and no shield around it:
        each is a turn of the loop, which every commit would wait for.)"""
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result

    async def close(self) -> None:
        """Close, also what never opened, and see the thread off: it would answer into a loop that may be closed."""
        await super().close()
        self._thread.join()


async def open_writer(path: Path, page_cache: int) -> Connection:
    """The one connection that writes and checkpoints. Raises BrokerError(STORAGE_FAILED) with the mend."""
    _make(path)
    connection = Connection(lambda: _connect(f"file:{quoted(path)}"), iter_chunk_size=64)
    try:
        await connection
        await connection.run(lambda db: _prepare(db, path, page_cache))
    except sqlite3.DatabaseError as error:
        await connection.close()
        raise unusable(path, error) from error
    except BaseException:
        await connection.close()
        raise
    return connection


async def open_reader(path: Path) -> Connection:
    """A connection that only reads; text comes back as bytes, because packed columns are not always UTF-8."""

    def connect() -> sqlite3.Connection:
        db = _connect(f"file:{quoted(path)}?mode=ro")
        db.execute("PRAGMA query_only = 1")
        db.text_factory = bytes
        return db

    connection = Connection(connect, iter_chunk_size=64)
    try:
        await connection
    except BaseException:
        await connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """The file for this user alone, and so those that SQLite puts beside it, whoever may look into the folder. One that
    is there keeps its rights; what cannot be made SQLite says better."""
    with suppress(OSError):
        path.touch(mode=0o600)


def quoted(path: Path) -> str:
    """For a `file:` address of SQLite."""
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _kind(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_passing(error: sqlite3.Error) -> bool:
    """No room, or somebody holds the file: nothing was done, and it may be tried again."""
    return _kind(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def unusable(path: Path, error: sqlite3.Error) -> BrokerError:
    """The refusal to start on a file, with the mend."""
    return BrokerError(Code.STORAGE_FAILED, f"{path}: {error}; {_MENDS.get(_kind(error), _DAMAGED)}")


def damage(found: str) -> sqlite3.DatabaseError:
    """What `quick_check` found, as SQLite itself would raise it."""
    return sqlite3.DatabaseError(f"the file is damaged, quick_check says: {' '.join(found.split())}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None, None, None]:
    """All or nothing, and never left open."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def checkpoint(db: sqlite3.Connection, mode: str) -> None:
    """Move the WAL into the file, as far as other programs that read (a backup) allow without being waited for."""
    db.execute("PRAGMA busy_timeout = 0").fetchall()
    try:
        db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    finally:
        db.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}").fetchall()


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, BUSY_SECONDS, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
    )


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
    if not fresh and version < VERSION:
        raise BrokerError(
            Code.STORAGE_FAILED, f"{path} has schema {version}, from before the first release: name another data folder"
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
