"""Noticing that the file was restored: then the log has another future, and positions of the old one do not count.

Beside the database lies a small file that says how far this log has come; it is no part of a backup. When it is
missing, or says more than the database knows, the database is an older copy: the log gets a new epoch. Floor 2.
"""

import os
import sqlite3
from pathlib import Path
from typing import Any

NAME = "watermark"


class Watermark:
    """The file. At start it is made to last; after that it is not fsynced: what it says is only ever too little, and
    one that lost its text in a power failure was there nevertheless."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._written = ""

    def fits(self, epoch: str, next_offset: int) -> bool:
        """Is this the database that the file was written beside, and no older?"""
        if next_offset == 1:
            return True
        try:
            text = self._path.read_text("ascii").strip("\0")
            known, _, reached = text.partition(" ")
            return not text or (known == epoch and int(reached) <= next_offset)
        except (OSError, ValueError):
            return False

    def write(self, epoch: str, next_offset: int, *, lasting: bool = False) -> None:
        """Remember how far the log has come. `lasting`: on disk when this returns."""
        text = f"{epoch} {next_offset}"
        if text == self._written:
            return
        part = self._path.with_suffix(".part")
        part.write_text(text, "ascii")
        if lasting:
            fsync(part)
        part.replace(self._path)
        if lasting:
            fsync(self._path.parent)
        self._written = text


def fsync(path: Path) -> None:
    """A file or folder is on disk when this returns."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def begin_epoch(db: sqlite3.Connection, state: dict[str, Any]) -> None:
    """Write a new epoch; `state` is changed too."""
    state["epoch"] = os.urandom(4).hex()
    db.execute("UPDATE state SET value = ? WHERE name = 'epoch'", (state["epoch"],))
