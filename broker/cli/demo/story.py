"""The verb `demo`: a daemon of its own, the journey, the crash, and what to try next. Floor 7."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.demo.crash import survive
from broker.cli.demo.daemon import Daemon
from broker.cli.demo.journey import walk
from broker.cli.demo.screen import Screen


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the temporary folder for a look inside.")] = False,
) -> None:
    """Watch the five steps on real input, then a kill -9 that loses nothing. Takes a few seconds; changes nothing."""
    folder = Path(tempfile.mkdtemp(prefix="postroom-demo-"))
    try:
        _play(folder, Screen(), keep)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _play(folder: Path, screen: Screen, keep: bool) -> None:
    daemon = Daemon(folder)
    try:
        took = daemon.start()
        screen.say(f"A daemon of its own: pid {daemon.pid}, {daemon.url}, data in {daemon.data}, up in {took:.1f} s.\n")
        walk(daemon, screen)
        screen.say()
        survive(daemon, screen)
    finally:
        daemon.stop()
    kept = f"The folder stays: {folder}" if keep else "The daemon has stopped and its folder is gone."
    screen.say(f"\n{kept} Now your own: [bold]postroom serve[/], then [bold]postroom pub orders/created hello[/]")
