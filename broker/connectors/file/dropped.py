"""One dropped file while it is read: twice, first to judge it whole, then to publish it batch by batch.

The first reading costs time and buys the promise that a file with a bad line publishes nothing. Both readings watch
that the file stays what it was: its writer may still hold it open. All calls block; they run in the folder's thread.
Floor 4.
"""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

from broker.connectors.file.formats import Flaw, Row, read_rows
from broker.connectors.file.options import DropOptions

MAX_FLAWS = 20
"""Flaws after which the rest of a file is not looked at."""

_BATCH_BYTES = 2 << 20
_BUFFER = 256 << 10


class NotRegularError(OSError):
    """A link, pipe, device or folder where a file is wanted."""


class ChangedError(Exception):
    """The file was written to while it was read."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the first reading found. `rows` and `sha256` are of the whole file when there are no flaws. `mtime`: unix
    ms."""

    sha256: str = ""
    rows: int = 0
    mtime: int = 0
    flaws: list[Flaw] = field(default_factory=list)


def open_regular(path: Path) -> io.FileIO:
    """Open for reading without following a link or waiting for a pipe's writer. Raises OSError, NotRegularError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRegularError(f"{path.name} is not a regular file")
    return io.FileIO(fd)


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they pass, until somebody wants it stopped."""

    def __init__(self, raw: io.FileIO, stopped: Event) -> None:
        self._raw = raw
        self._stopped = stopped
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._stopped.is_set():
            raise InterruptedError("reading was stopped")
        count = self._raw.readinto(buffer)
        if count:
            self.sha256.update(memoryview(buffer)[:count])
        return count


class DroppedFile:
    """See the module. `judge` opens it; `close` it, and before that `stop` it when somebody may still be reading."""

    def __init__(self, path: Path, options: DropOptions, max_body: int) -> None:
        self._path = path
        self._options = options
        self._max_body = max_body
        self._raw: io.FileIO | None = None
        self._identity = (0, 0)
        self._rows: Iterator[Row | Flaw] = iter(())
        self._stopped = Event()

    def judge(self) -> Judgement:
        """Read it whole. Raises ChangedError, OSError."""
        self._raw = open_regular(self._path)
        self._identity = self._stat(self._raw)
        hashed = _Hashed(self._raw, self._stopped)
        rows, flaws = 0, []
        file = io.BufferedReader(hashed, _BUFFER)
        for found in self._read(file):
            if isinstance(found, Row):
                rows += 1
                continue
            flaws.append(found)
            if len(flaws) >= MAX_FLAWS:
                break
        while not flaws and file.read(_BUFFER):  # what a parser need not have read belongs to the hash
            pass
        self._check_unchanged(self._raw)
        return Judgement(hashed.sha256.hexdigest(), rows, self._identity[1] // 1_000_000, flaws)

    def begin(self, after: int) -> None:
        """Start the second reading behind row `after`."""
        assert self._raw is not None, "judge() comes first"
        self._raw.seek(0)
        self._rows = self._read(io.BufferedReader(_Hashed(self._raw, self._stopped), _BUFFER))
        for _ in range(after):
            next(self._rows, None)

    def batch(self) -> list[Row]:
        """The next rows, bounded in count and bytes; empty at the end. Raises ChangedError, OSError."""
        assert self._raw is not None, "judge() comes first"
        rows: list[Row] = []
        size = 0
        while len(rows) < self._options.batch and size < _BATCH_BYTES:
            found = next(self._rows, None)
            if found is None:
                break
            if isinstance(found, Flaw):
                raise ChangedError
            rows.append(found)
            size += len(found.body)
        self._check_unchanged(self._raw)
        return rows

    def stop(self) -> None:
        """From any thread: whoever reads gets InterruptedError soon."""
        self._stopped.set()

    def close(self) -> None:
        """Let go of the file."""
        if self._raw is not None:
            self._raw.close()

    def _read(self, file: BinaryIO) -> Iterator[Row | Flaw]:
        return read_rows(file, self._options, self._max_body)

    @staticmethod
    def _stat(raw: io.FileIO) -> tuple[int, int]:
        found = os.fstat(raw.fileno())
        return found.st_size, found.st_mtime_ns

    def _check_unchanged(self, raw: io.FileIO) -> None:
        if self._stat(raw) != self._identity:
            raise ChangedError
