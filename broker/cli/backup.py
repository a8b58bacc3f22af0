"""`postroom backup`: a copy of the log, taken from its file, whether a daemon runs on it or not. Floor 7."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.errors import FailedError
from broker.cli.output import remark
from broker.cli.progress import Advance, progress
from broker.core.errors import BrokerError

RESTORE = (
    "To restore: stop the daemon, put the copy as postroom.db into an empty data folder of its user, start it there."
)


def backup(
    file: Annotated[Path, typer.Argument(help="The copy; it must not exist yet.")],
    data_dir: Annotated[
        Path, typer.Option("--data-dir", "-d", envvar="POSTROOM_DATA_DIR", help="Where the log lives.")
    ] = Path("postroom-data"),
) -> None:
    """Copy the log into one file, of one moment and checked, while the daemon runs or not.

    Run it as the daemon's user or as root. The copy holds messages and hashes of tokens, and is for its owner alone.
    """
    from broker.engine.sqlite.backup import BackupError, back_up

    with ExitStack() as shown:
        advance: Advance | None = None
        before = 0

        def watch(done: int, total: int) -> None:
            nonlocal advance, before
            if advance is None:
                advance = shown.enter_context(progress("pages copied, then checked", total))
            advance(done - before)
            before = done

        try:
            size = back_up(data_dir / "postroom.db", file, watch)
        except BackupError as error:
            raise FailedError(f"No backup: {error}.") from error
        except BrokerError as error:
            raise FailedError(f"No backup: {error.detail}.") from error
        except OSError as error:
            raise FailedError(f"No backup: {error.filename or file}: {error.strerror}.") from error
    print(f"{file}: {size:,} bytes, checked")
    remark(RESTORE)
