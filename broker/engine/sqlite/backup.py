"""A copy of the log while it is used, or while it is not: whole, checked, for its user alone. Floor 2."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from broker.engine.sqlite.connection import APPLICATION_ID, damage, quoted, unusable
from broker.engine.sqlite.watermark import fsync

STEP = 1024
"""Pages copied between two words about progress."""


class BackupError(Exception):
    """There is no copy; the text says why and what to do."""


def back_up(source: Path, copy: Path, watch: Callable[[int, int], None]) -> int:
    """Copy the database `source` to `copy`, which must not exist yet, and return its bytes.

    `watch` hears how many pages are done and how many there are. The copy is of one moment: a read transaction holds
    it while others write on, and the log beside the file grows as long. It bears its name only when it is whole, was
    checked, and is on disk. Raises BackupError, BrokerError(STORAGE_FAILED) and OSError; then nothing is left.
    """
    if not source.is_file():
        raise BackupError(f"there is no database {source}; name the data folder: --data-dir DIR")
    if copy.exists():
        raise BackupError(f"{copy} exists and is not overwritten; name another file")
    part = copy.with_name(copy.name + ".part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise BackupError(f"{part} exists: another backup runs, or one broke off; then delete it") from None
    try:
        _copy(source, part, watch)
        _check(part, source)
        fsync(part)
        part.rename(copy)
        fsync(copy.parent)
    finally:
        part.unlink(missing_ok=True)
        part.with_name(part.name + "-journal").unlink(missing_ok=True)
    return copy.stat().st_size


def _copy(source: Path, part: Path, watch: Callable[[int, int], None]) -> None:
    try:
        with closing(_open(source, "mode=ro")) as theirs, closing(_open(part, "mode=rw")) as ours:
            theirs.execute("BEGIN")
            if theirs.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise BackupError(f"{source} is not a Postroom file; name another data folder")
            # Without this read each commit of the daemon would make the copy begin anew.
            theirs.execute("SELECT count(*) FROM sqlite_master").fetchone()
            theirs.backup(ours, pages=STEP, progress=lambda _, left, total: watch(total - left, total))
    except sqlite3.Error as error:
        raise unusable(source, error) from error


def _check(part: Path, source: Path) -> None:
    """Immutable: it is nobody else's yet, and SQLite needs no files beside it."""
    try:
        with closing(_open(part, "immutable=1")) as db:
            result = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise unusable(source, error) from error
    if result != "ok":
        raise unusable(source, damage(result))


def _open(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quoted(path)}?{how}", uri=True, isolation_level=None)
