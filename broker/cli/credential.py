"""The token that the command shows: of `--token` or POSTROOM_TOKEN, else in the file of `--token-file` or
POSTROOM_TOKEN_FILE. Floor 7."""

import os
from pathlib import Path

from broker.cli.errors import FailedError


def given_token() -> str | None:
    """Raises FailedError for a file that cannot be read."""
    token = os.environ.get("POSTROOM_TOKEN", "").strip()
    file = os.environ.get("POSTROOM_TOKEN_FILE")
    if token or not file:
        return token or None
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise FailedError(f"{file} cannot be read as --token-file or POSTROOM_TOKEN_FILE: {reason}.") from None
