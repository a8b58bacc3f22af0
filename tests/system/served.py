"""The real daemon as a process of the test's own."""

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import IO, TypedDict

WITHIN = 20.0
"""Seconds after which a process that does not do what it must has failed."""
_HAND_OVER = """
import fcntl, os, sys
count = int(os.environ["LISTEN_FDS"])
kept = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 100) for fd in sys.argv[1 : count + 1]]
for target, fd in enumerate(kept, 3):
    os.dup2(fd, target)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[count + 1], sys.argv[count + 1 :])
"""


class HandedOver(TypedDict):
    """Arguments of `Served`."""

    environ: dict[str, str]
    prefix: list[str]
    pass_fds: list[int]


def handing_over(**sockets: socket.socket) -> HandedOver:
    """The daemon gets the listening sockets of these doors as systemd hands them over: descriptors from 3, named."""
    fds = [sock.fileno() for sock in sockets.values()]
    environ = {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(sockets)}
    return {"environ": environ, "prefix": [sys.executable, "-c", _HAND_OVER, *map(str, fds)], "pass_fds": fds}


class Served:
    """`postroom serve` on `folder`, with free ports unless the configuration says otherwise. Use it as a context."""

    def __init__(
        self,
        folder: Path,
        config: str = "",
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.config = folder / "postroom.toml"
        self.config.write_text(config)
        command = [*prefix, sys.executable, "-m", "broker", "serve"]
        command += ["--config", str(self.config), "--data-dir", str(folder / "data")]
        ours = {
            k: v for k, v in os.environ.items() if not k.startswith(("POSTROOM_", "NOTIFY_", "LISTEN_", "WATCHDOG_"))
        }
        ports = {f"POSTROOM_{door}__PORT": "0" for door in ("NATIVE", "HTTP", "MQTT")}
        self.process = subprocess.Popen(
            command,
            env={**ours, **ports, "PYTHONUNBUFFERED": "1", **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            pass_fds=pass_fds,
        )
        self.out: list[str] = []
        self.log: list[str] = []
        self._arrived: queue.Queue[None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.log))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str] | None, lines: list[str]) -> None:
        for line in stream or ():
            lines.append(str(line).rstrip("\n"))
            self._arrived.put(None)
        self._arrived.put(None)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._join()

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(WITHIN)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def ready(self) -> "Served":
        """Wait until it has said so."""
        self.until(lambda: "postroom: ready" in self.out)
        return self

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for lines that make the condition hold. Fails with what was said when the process ends without."""
        deadline = monotonic() + WITHIN
        while not condition():
            ended = self.process.poll() is not None and not any(r.is_alive() for r in self._readers)
            if ended or monotonic() > deadline:
                raise AssertionError("\n".join(["it did not come about; it said:", *self.out, *self.log]))
            with contextlib.suppress(queue.Empty):
                self._arrived.get(timeout=0.1)

    def address(self, door: str) -> str:
        """Where a door listens."""
        listening = rf"postroom: {door} listening on (?:\w+://)?(.*)"
        found = [re.fullmatch(listening, line) for line in self.out]
        return next(match[1] for match in found if match)

    def errors(self) -> list[str]:
        """What it logged as an error or worse."""
        return [line for line in self.log if json.loads(line)["level"] in ("error", "critical")]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(WITHIN)
        self._join()
        return code
