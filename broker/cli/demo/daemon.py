"""The demo's daemon: a real process on a temporary folder and free ports, which may be killed. Floor 7."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

from broker.cli.errors import FailedError

READY_WITHIN = 10.0
STOP_WITHIN = 5.0
_LISTENING = re.compile(r"^postroom: (native|http|mqtt) listening on (\S+)$", re.MULTILINE)
_READY = "postroom: ready\n"

CONFIG = """\
[native]
port = 0

[http]
port = 0

[mqtt]
port = 0

[webhooks]
allow = ["127.0.0.0/8"]

[[drop]]
path = "{drop}"
topic = "prices/daily"
key = "ticker"
poll = "100ms"
stable_for = "200ms"
"""


class Daemon:
    """`postroom serve` on `folder`. `url` (HTTP), `native` and `mqtt` (HOST:PORT) are set once it is ready."""

    def __init__(self, folder: Path) -> None:
        self.drop = folder / "drop"
        self.drop.mkdir()
        self.config = folder / "postroom.toml"
        self.config.write_text(CONFIG.format(drop=self.drop))
        self.data = folder / "data"
        self.log = folder / "daemon.log"
        self.url = self.native = self.mqtt = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start and wait until it serves; returns the seconds this took. Raises FailedError with the end of its log."""
        begin, size = monotonic(), self._logged()
        command = [sys.executable, "-m", "broker", "serve", "--config", str(self.config), "--data-dir", str(self.data)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("POSTROOM_", "NOTIFY_", "LISTEN_"))}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own program, no shell
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        while monotonic() - begin < READY_WITHIN:
            if self._process.poll() is not None:
                break
            if self._ready(size):
                return monotonic() - begin
            sleep(0.02)
        self.stop()
        raise FailedError(f"The daemon did not start. The end of its log:\n{self._tail()}")

    def _logged(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _ready(self, since: int) -> bool:
        said = self.log.read_bytes()[since:].decode(errors="replace")
        if _READY not in said:
            return False
        doors = dict(_LISTENING.findall(said))
        self.url, self.native, self.mqtt = doors["http"], doors["native"], doors["mqtt"]
        return True

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])

    def kill(self) -> None:
        """kill -9: no goodbye, no flush."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()
