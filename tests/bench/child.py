"""Servers under test as processes of our own: each in a session of its own, ended by its id, also on failure."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
STARTS_WITHIN = 90.0
STOPS_WITHIN = 20.0
"""Seconds."""


@contextmanager
def child(
    command: Sequence[str], folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run it while the block does; what it says goes to `log` in the folder."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """It and what it started, politely and then not."""
    for number, patience in ((signal.SIGTERM, STOPS_WITHIN), (signal.SIGKILL, STOPS_WITHIN)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):  # a grandchild that outlived it
        os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listening(process: "subprocess.Popen[bytes]", port: int, folder: Path) -> None:
    """Wait until it accepts connections. Raises RuntimeError with what it said when it does not."""
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        await asyncio.sleep(0.05)
    raise RuntimeError(f"it never listened; it said: {_said(folder)}")


def _said(folder: Path) -> str:
    return (folder / "log").read_bytes()[-2000:].decode(errors="replace").strip() or "nothing"


def python(*arguments: str) -> list[str]:
    """The command for a module of ours, by the interpreter that runs this one."""
    return [sys.executable, "-m", *arguments]


def first_line(*command: str) -> str:
    """Of what a program prints: its version."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return next(iter((done.stdout or done.stderr).splitlines()), "")
