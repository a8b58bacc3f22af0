"""The life of the daemon's process, from its configuration to its exit code. Floor 7."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from broker import process
from broker.config import ConfigError, load_config
from broker.daemon import Daemon, StartError, configure_logs


def run(path: Path | None = None, data_dir: Path | None = None) -> int:
    """Be the daemon until it is told to stop; returns the exit code."""
    try:
        config = load_config(path, data_dir=data_dir)
    except ConfigError as error:
        return _refuse(str(error))
    configure_logs(config)
    process.tune()
    daemon = Daemon(config, say=_say, read=lambda: load_config(path, data_dir=data_dir))
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(daemon.run())
    except StartError as error:
        return _refuse(str(error))
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads on; that is no reason to stop
        print(line, flush=True)


def _refuse(text: str) -> int:
    print(f"postroom: {text}", file=sys.stderr)
    return 1
