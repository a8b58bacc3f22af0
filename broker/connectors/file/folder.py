"""The drop folder on the file system: which files are whole, claiming one, and putting it away.

A claim is a rename into a folder of its own under `.work/`, so what is there after a crash is exactly what was in hand.
Stability is judged by our own clock, because copied files keep an old time of change. Renames are made durable before
the next step builds on them. All calls block; they run in the folder's thread. Floor 4.
"""

import heapq
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from broker.connectors.file.dropped import open_regular
from broker.connectors.file.options import DropOptions

WORK = ".work"
MAX_FILES = 10_000
"""Files looked after at a time, first by name; the rest have their turn when these are done."""

_UNFINISHED = (".*", "*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.writing", "*.swp", "*~")


@dataclass(frozen=True, slots=True)
class Claim:
    """A file in hand. `name` is the one it was dropped under."""

    id: str
    name: str
    path: Path

    @property
    def shown(self) -> str:
        """The name as text: file names are bytes."""
        return shown(self.name)


@dataclass(slots=True)
class _Sighting:
    look: tuple[int, int, int]  # size, mtime_ns, inode
    since: float
    checks: int


def shown(name: str) -> str:
    """A file name as valid text."""
    return os.fsencode(name).decode("utf-8", "replace")


def natural(name: str) -> list[str | int]:
    """Sort key under which `day9` comes before `day10`."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]


class Folder:
    """See the module. `wall` gives unix seconds, `monotonic` any seconds that only rise."""

    def __init__(self, options: DropOptions, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._options = options
        self._wall = wall
        self._monotonic = monotonic
        self._seen: dict[str, _Sighting] = {}
        self.path = options.path
        self.work = options.path / WORK
        self.done = options.path / options.done
        self.failed = options.path / options.failed

    @property
    def waiting(self) -> int:
        """How many files are watched until they are stable."""
        return len(self._seen)

    def prepare(self) -> None:
        """Make the folders beside the files; raises OSError that says what to do."""
        if not self.path.is_dir():
            raise OSError(f"{self.path} is no folder; create it, or mend path in the configuration")
        device = self.path.stat().st_dev
        for folder in (self.work, self.done, self.failed):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_dev != device:
                raise OSError(f"{folder} is on another file system than {self.path}; files are moved by rename")

    # Before

    def stable(self) -> list[str]:
        """Look once; names of the files that may be taken now, in natural order. Raises OSError."""
        now, seen = self._monotonic(), {}
        with os.scandir(self.path) as entries:
            wanted = heapq.nsmallest(MAX_FILES, (e.name for e in entries if self._wants(e)), key=natural)
        for name in wanted:
            try:
                found = (self.path / name).stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            look = (found.st_size, found.st_mtime_ns, found.st_ino)
            known = self._seen.get(name)
            if known is None or known.look != look:
                known = _Sighting(look, now, 0)
            known.checks += 1
            seen[name] = known
        self._seen = seen
        return [name for name, sighting in seen.items() if self._is_stable(sighting, now)]

    def _wants(self, entry: os.DirEntry[str]) -> bool:
        return self._matches(entry.name) and entry.is_file(follow_symlinks=False)

    def _matches(self, name: str) -> bool:
        lower = name.lower()
        if any(fnmatchcase(lower, pattern) for pattern in _UNFINISHED):
            return False
        return any(fnmatchcase(lower, pattern.lower()) for pattern in self._options.patterns)

    def _is_stable(self, sighting: _Sighting, now: float) -> bool:
        return (
            sighting.checks >= self._options.stable_checks and (now - sighting.since) * 1000 >= self._options.stable_for
        )

    # In hand

    def claim(self, name: str) -> Claim | None:
        """Take a file; None when it is gone. Raises OSError when it cannot be read or moved."""
        try:
            open_regular(self.path / name).close()
        except FileNotFoundError:
            return None
        folder = self._new_claim()
        try:
            (self.path / name).rename(folder / name)
        except BaseException as error:
            folder.rmdir()
            if isinstance(error, FileNotFoundError):
                return None
            raise
        self._seen.pop(name, None)
        _sync(folder, self.work, self.path)
        return Claim(folder.name, name, folder / name)

    def _new_claim(self) -> Path:
        """Names sort by time and are never used again: the ledger tells by them whose work an entry is."""
        folder = self.work / f"{int(self._wall() * 1000):012x}-{secrets.token_hex(6)}"
        folder.mkdir()
        return folder

    def claimed(self) -> list[Claim]:
        """What a daemon before us had in hand, oldest first. Raises OSError."""
        claims = []
        for folder in sorted(self.work.iterdir()):
            names = [p.name for p in folder.iterdir()] if folder.is_dir() and not folder.is_symlink() else [""]
            if not names:
                folder.rmdir()
            elif names[0] and self._matches(names[0]):
                claims.append(Claim(folder.name, names[0], folder / names[0]))
        return claims

    # After

    def release(self, claim: Claim) -> None:
        """Put it back as if it had not been taken."""
        self._move(claim, self._free(self.path, claim))

    def put_away(self, claim: Claim, folder: Path, note: Mapping[str, Any] | None = None, suffix: str = "") -> Path:
        """Move it to `folder`, never over another file; with a note beside it (`<name><suffix>`). Returns where."""
        target = self._free(folder, claim)
        if note is not None:
            self._write(folder / (target.name + suffix), note)
        self._move(claim, target)
        return target

    def _free(self, folder: Path, claim: Claim) -> Path:
        stem, dot, extension = claim.name.rpartition(".")
        stem, extension = (stem, dot + extension) if stem else (claim.name, "")
        target, count = folder / claim.name, 0
        while os.path.lexists(target):
            count += 1
            target = folder / f"{stem}.{claim.id}{f'-{count}' if count > 1 else ''}{extension}"
        return target

    def _write(self, path: Path, note: Mapping[str, Any]) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(note, file, ensure_ascii=False, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _move(self, claim: Claim, target: Path) -> None:
        claim.path.rename(target)
        _sync(target.parent)
        claim.path.parent.rmdir()
        _sync(self.work)


def _sync(*folders: Path) -> None:
    """Make renames in these folders survive a power cut."""
    for folder in folders:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
