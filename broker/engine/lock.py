"""The lock on a data folder: one daemon at a time, whoever started it.

The lock is the kernel's (flock on the file `lock`), so that it ends with the process however that ends; the pid inside
is for the sentence that the second daemon prints. Floor 2.
"""

import fcntl
import os
from pathlib import Path


class FolderError(Exception):
    """The data folder cannot be used; the text says why and what to do."""


class FolderLock:
    """Holds `folder`, which is made (mode 0700) when it is not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fd: int | None = None

    def acquire(self) -> None:
        """Raises FolderError: another process has it, or it cannot be written."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileExistsError, NotADirectoryError):
            text = f"cannot use the data folder {self.folder}: there is a file, not a folder; set another data_dir"
            raise FolderError(text) from None
        except OSError as error:
            mend = "give this user the right to write there, or set another data_dir"
            raise FolderError(f"cannot use the data folder {self.folder}: {error.strerror}; {mend}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise FolderError(self._refusal(error, holder)) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def _refusal(self, error: OSError, holder: str) -> str:
        if not isinstance(error, BlockingIOError):
            return f"cannot lock the data folder {self.folder}: {error.strerror}; put data_dir on a local disk"
        who = f"the daemon with pid {holder}" if holder else "another daemon"
        return f"{who} has the data folder {self.folder}; stop it first, or set another data_dir"

    def release(self) -> None:
        """Let go; the file stays, because removing it would race with the next one."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
