"""The first start: nobody could make the first token, so the daemon does, and leaves it where only its own user reads.

Floor 2.
"""

import os
from itertools import chain, count
from pathlib import Path

from broker.auth.directory import Account, Directory
from broker.auth.grant import EVERYTHING

NAME = "admin"
FILE = "admin.token"


async def make_admin(directory: Directory, folder: Path) -> Path:
    """Make a principal `admin` with a token; returns the file (mode 0600) that holds it. Raises OSError, BrokerError.

    The grant comes last: after a crash in between there is still no admin, and the next start begins anew."""
    name = _name(directory)
    text, _ = await directory.create_token(name)
    path = folder / FILE
    path.unlink(missing_ok=True)  # whatever is there, a link too, is not written through
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)  # an admin whose file a power cut takes would be one whom nobody can be
    await directory.add_grants(name, (EVERYTHING,))
    return path


def _name(directory: Directory) -> str:
    """`admin`, or `admin-2` and so on where somebody else has that name: whose tokens and password others may know."""
    names = chain((NAME,), (f"{NAME}-{number}" for number in count(2)))
    return next(name for name in names if _is_free(directory.find(name)))


def _is_free(account: Account | None) -> bool:
    return account is None or EVERYTHING in account.record.grants


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
