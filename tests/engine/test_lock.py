"""The lock on a data folder."""

import fcntl
import os
from pathlib import Path

import pytest

from broker.engine.lock import FolderError, FolderLock


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "new" / "data"), FolderLock(tmp_path / "new" / "data")
    first.acquire()
    assert (tmp_path / "new" / "data").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FolderError, match=f"the daemon with pid {os.getpid()} has the data folder"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_what_a_dead_process_left_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("99999999 and more text than a pid\n")
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()
    lock.release()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(FolderError, match="No locks available; put data_dir on a local disk"):
        FolderLock(tmp_path).acquire()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    for folder in (tmp_path / "data", tmp_path / "data" / "inner"):
        with pytest.raises(FolderError, match="there is a file, not a folder; set another data_dir"):
            FolderLock(folder).acquire()
