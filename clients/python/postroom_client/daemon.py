"""A real daemon for tests: `postroom serve` as a process of its own, on free ports, with its data in a folder given."""

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

_READY = re.compile(rb"postroom: (\w+) listening on (\S+)")
DOORS = ("native", "http", "mqtt")
"""Listeners that every daemon has; each gets a free port."""


class Daemon:
    """`url` is for `connect`, `http_url` for HTTP, `addresses` has every listener by name. `environment` is added.

    `stop` drains it, `kill` is kill -9, `start` begins again on the same data and, for clients that reconnect, on the
    same ports."""

    def __init__(
        self, data_dir: Path, *, ready_within: float = 30.0, environment: dict[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.addresses: dict[str, str] = {}
        self._ready_within = ready_within
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the native protocol."""
        return f"postroom://{self.addresses['native']}"

    @property
    def http_url(self) -> str:
        """Of the HTTP door."""
        return self.addresses["http"]

    @property
    def pid(self) -> int:
        """Of the running process. Raises RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError("the daemon is not running")
        return self._process.pid

    def start(self) -> "Daemon":
        """Returns when it listens. Raises RuntimeError with what it said when it does not."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        log = (self.data_dir.parent / f"{self.data_dir.name}.log").open("ab")
        command = [*_command(), "serve", "--data-dir", str(self.data_dir)]
        with log:
            self._process = subprocess.Popen(  # noqa: S603  our own command
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self._variables()
            )
        try:
            self._await_ready(Path(log.name))
        except BaseException:
            self.kill()
            raise
        return self

    def _variables(self) -> dict[str, str]:
        ports = {name: address.rpartition(":")[2] for name, address in self.addresses.items()}
        doors = {f"POSTROOM_{door.upper()}__PORT": ports.get(door, "0") for door in DOORS}
        return {**os.environ, "PYTHONUNBUFFERED": "1", **doors, **self._environment}

    def _await_ready(self, log: Path) -> None:
        """Read the lines of the listeners. They come together: once native is there, the others have a moment."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe, said = self._process.stdout, b""
        deadline = time.monotonic() + self._ready_within
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                data = os.read(pipe.fileno(), 4096)
                said += data
                if not data:
                    self._process.wait(5)
                    break
                self.addresses |= {m[1].decode(): m[2].decode() for m in _READY.finditer(said)}
                if set(DOORS) <= self.addresses.keys() and said.endswith(b"\n"):
                    return
        text = (said + log.read_bytes()[-4000:]).decode(errors="replace")
        why = "ended at once" if self._process.poll() is not None else f"was not ready in {self._ready_within:g} s"
        raise RuntimeError(f"the daemon {why}; it said:\n{text}")

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and the exit code. Killed when it takes longer."""
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> int:
        """SIGKILL: what was confirmed must be there when it starts again."""
        return self._end(signal.SIGKILL, 30.0)

    def _end(self, number: signal.Signals, timeout: float) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(timeout)
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> "Daemon":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _command() -> list[str]:
    """`postroom` beside this interpreter or on the path, else the daemon's package."""
    beside = Path(sys.executable).with_name("postroom")
    found = str(beside) if beside.exists() else shutil.which("postroom")
    return [found] if found else [sys.executable, "-m", "broker"]
