"""`postroom serve` and `postroom check-config`: the daemon itself, in this process. Floor 7."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="POSTROOM_CONFIG", help="A TOML file; see config/postroom.toml.")
]
DataOption = Annotated[Path | None, typer.Option("--data-dir", "-d", help="Where the log lives; ./postroom-data.")]


def serve(config: ConfigOption = None, data_dir: DataOption = None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C. Without a config it listens on loopback only."""
    from broker.cli.life import run

    raise typer.Exit(run(config, data_dir))


def check_config(config: ConfigOption = None) -> None:
    """Read the configuration as the daemon would, and say every problem with its mend.

    How settings fit one another is looked at once the value of each is right by itself.
    """
    from broker.config import check_config as check

    if not check(config):
        raise typer.Exit(1)
