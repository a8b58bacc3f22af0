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
    """The file. Writing it is not fsynced: what it says is only ever too little."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._written = ""

    def fits(self, epoch: str, next_offset: int) -> bool:
        """Is this the database that the file was written beside, and no older?"""
        if next_offset == 1:
            return True
        try:
            known, _, reached = self._path.read_text("ascii").partition(" ")
            return known == epoch and int(reached) <= next_offset
        except (OSError, ValueError):
            return False

    def write(self, epoch: str, next_offset: int) -> None:
        """Remember how far the log has come."""
        text = f"{epoch} {next_offset}"
        if text == self._written:
            return
        part = self._path.with_suffix(".part")
        part.write_text(text, "ascii")
        part.replace(self._path)
        self._written = text


def begin_epoch(db: sqlite3.Connection, state: dict[str, Any]) -> None:
    """Write a new epoch; `state` is changed too."""
    state["epoch"] = os.urandom(4).hex()
    db.execute("UPDATE state SET value = ? WHERE name = 'epoch'", (state["epoch"],))
