"""The first start: nobody could make the first token, so the daemon does, and leaves it where only its own user reads.

Floor 2.
"""

import os
from pathlib import Path

from broker.auth.directory import Directory
from broker.auth.grant import EVERYTHING

NAME = "admin"
FILE = "admin.token"


async def make_admin(directory: Directory, folder: Path) -> Path:
    """Make a principal `admin` with a token; returns the file (mode 0600) that holds it. Raises OSError, BrokerError.

    The grant comes last: after a crash in between there is still no admin, and the next start begins anew."""
    text, _ = await directory.create_token(NAME)
    path = folder / FILE
    path.unlink(missing_ok=True)  # whatever is there, a link too, is not written through
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)  # an admin whose file a power cut takes would be one whom nobody can be
    await directory.add_grants(NAME, (EVERYTHING,))
    return path


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
