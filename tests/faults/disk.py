"""A disk between SQLite and the system's: it knows what was synced, can lose the rest, and fails when told to.

SQLite reaches files through a VFS, a struct of C functions. Here the default one is copied, and of every file that it
opens the writing functions are replaced by ours, which note and pass on. So the engine under test runs unchanged. What
does not go through these functions (the -shm file, other files of the data folder) is not seen.
"""

import ctypes
import ctypes.util
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p, cast
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest

OK, IOERR_WRITE, IOERR_FSYNC, FULL = 0, 10 | 3 << 8, 10 | 4 << 8, 13
SECTOR = 512

Kind = Literal["write", "sync", "truncate", "delete"]

_XOPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_XDELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_XWRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_XTRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_XSYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_OTHER = c_void_p


class _Vfs(Structure):
    """sqlite3_vfs, version 3: https://sqlite.org/c3ref/vfs.html."""

    _fields_ = (
        *(("version", c_int), ("size", c_int), ("longest", c_int)),
        *(("next", c_void_p), ("name", c_char_p), ("data", c_void_p), ("open", _XOPEN), ("delete", _XDELETE)),
        ("others", _OTHER * 14),
    )


class _Methods(Structure):
    """sqlite3_io_methods, version 3: https://sqlite.org/c3ref/io_methods.html."""

    _fields_ = (
        *(("version", c_int), ("close", _OTHER), ("read", _OTHER)),
        *(("write", _XWRITE), ("truncate", _XTRUNCATE), ("sync", _XSYNC), ("others", _OTHER * 13)),
    )


@dataclass
class Kept:
    """A file as the disk has it: what is certain, and what was written since the last sync."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data) or (size, None): truncated

    def sync(self) -> None:
        self.synced, self.pending = apply(self.synced, self.pending), []

    def after_power_loss(self, random: Random) -> bytes:
        """What was synced, and of the rest nothing, all, the first writes, any of them, or one torn in two."""
        rest, how = self.pending, random.randrange(5)
        if how == 0 or not rest:
            return self.synced
        if how == 2:
            rest = rest[: random.randrange(len(rest))]
        elif how == 3:
            rest = [write for write in rest if random.random() < 0.5]
        elif how == 4:
            rest = rest[: random.randrange(len(rest)) + 1]
            offset, data = rest[-1]
            if data is not None:
                rest = [*rest[:-1], (offset, data[: random.randrange(0, len(data), SECTOR)])]
        return apply(self.synced, rest)


def apply(content: bytes, writes: list[tuple[int, bytes | None]]) -> bytes:
    """The content after these writes."""
    made = bytearray(content)
    for offset, data in writes:
        if data is None:
            del made[offset:]
            continue
        made.extend(bytes(max(0, offset + len(data) - len(made))))
        made[offset : offset + len(data)] = data
    return bytes(made)


@dataclass
class Disk:
    """`on` is told of each action before it takes place, in SQLite's thread, and may answer it with an error code."""

    files: dict[str, Kept] = field(default_factory=dict)
    actions: int = 0
    on: Callable[[Kind, str], int] = lambda kind, path: OK

    def act(self, kind: Kind, path: str) -> int:
        self.actions += 1
        return self.on(kind, path)

    def after_power_loss(self, folder: Path, target: Path, random: Random) -> None:
        """Put what may be left of the files of `folder` into `target`."""
        target.mkdir()
        for path, kept in list(self.files.items()):
            if Path(path).parent == folder:
                (target / Path(path).name).write_bytes(kept.after_power_loss(random))


class _Shim:
    """Our functions, and those that they stand before. All must live as long as SQLite may call them."""

    def __init__(self, library: ctypes.CDLL, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.RLock()
        self._paths: dict[int, str] = {}
        self._methods: dict[int, _Methods] = {}
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        library.sqlite3_vfs_register.argtypes = [POINTER(_Vfs), c_int]
        library.sqlite3_vfs_unregister.argtypes = [POINTER(_Vfs)]
        self._before: _Vfs = library.sqlite3_vfs_find(None).contents
        self.vfs = _Vfs.from_buffer_copy(self._before)
        self.vfs.name = b"postroom-test"
        self.vfs.next = None
        self.vfs.open, self.vfs.delete = _XOPEN(self._open), _XDELETE(self._delete)

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        code: int = self._before.open(vfs, name, file, flags, out)
        if code == OK and name:
            path = ctypes.string_at(name).decode()
            with self._lock:
                self._paths[file] = path
                self._disk.files.setdefault(path, Kept(Path(path).read_bytes()))
            slot = cast(file, POINTER(c_void_p))
            slot[0] = ctypes.addressof(self._replaced(slot[0]))
        return code

    def _replaced(self, address: int) -> _Methods:
        found = self._methods.get(address)
        if found is None:
            before = cast(address, POINTER(_Methods)).contents
            found = self._methods[address] = _Methods.from_buffer_copy(before)
            found.write = _XWRITE(self._write(before))
            found.truncate = _XTRUNCATE(self._truncate(before))
            found.sync = _XSYNC(self._sync(before))
        return found

    def _write(self, before: Any) -> Callable[[int, int, int, int], int]:
        def write(file: int, data: int, size: int, offset: int) -> int:
            with self._lock:
                code = self._disk.act("write", self._paths[file]) or before.write(file, data, size, offset)
                if code == OK:
                    self._disk.files[self._paths[file]].pending.append((offset, ctypes.string_at(data, size)))
            return int(code)

        return write

    def _truncate(self, before: Any) -> Callable[[int, int], int]:
        def truncate(file: int, size: int) -> int:
            with self._lock:
                code = self._disk.act("truncate", self._paths[file]) or before.truncate(file, size)
                if code == OK:
                    self._disk.files[self._paths[file]].pending.append((size, None))
            return int(code)

        return truncate

    def _sync(self, before: Any) -> Callable[[int, int], int]:
        def sync(file: int, flags: int) -> int:
            with self._lock:
                kept = self._disk.files[self._paths[file]]
                code = self._disk.act("sync", self._paths[file]) or before.sync(file, flags)
                if code == OK:
                    kept.sync()
                else:
                    kept.pending.clear()  # as Linux does: written pages count as clean, a later sync has nothing to do
            return int(code)

        return sync

    def _delete(self, vfs: int, name: bytes, sync_folder: int) -> int:
        with self._lock:
            code: int = self._disk.act("delete", name.decode()) or self._before.delete(vfs, name, sync_folder)
            if code == OK:
                self._disk.files.pop(name.decode(), None)
        return code


def _library() -> ctypes.CDLL:
    """SQLite as Python's module has it loaded."""
    library = ctypes.CDLL(ctypes.util.find_library("sqlite3") or pytest.skip("SQLite is no shared library here"))
    library.sqlite3_libversion.restype = c_char_p
    if library.sqlite3_libversion().decode() != sqlite3.sqlite_version:
        pytest.skip("Python has another SQLite than the system")
    return library


@contextmanager
def watched_disk() -> Iterator[Disk]:
    """All databases opened meanwhile lie on this disk; they must be closed before the end."""
    library, disk = _library(), Disk()
    shim = _Shim(library, disk)
    library.sqlite3_vfs_register(byref(shim.vfs), 1)
    try:
        yield disk
    finally:
        library.sqlite3_vfs_unregister(byref(shim.vfs))
