"""What the daemon tells its service manager, by systemd's protocol: sd_notify(3), a datagram of `KEY=value` lines.

It decides the wording and where it goes; the daemon decides when. Without a NOTIFY_SOCKET everything here does
nothing. A manager that does not listen never disturbs the daemon. Floor 1.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)


class Notifier:
    """Speaks to the socket named by `NOTIFY_SOCKET` of `environ`; `@` at its front means an abstract one."""

    def __init__(
        self, environ: Mapping[str, str] | None = None, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._monotonic = monotonic
        self._complained = False
        self.watchdog_seconds = _watchdog_seconds(environ)
        """How often the manager wants to hear `alive` at the latest, or None: it does not watch."""

    def starting(self, status: str, extend_seconds: float | None = None) -> None:
        """Not ready yet; with `extend_seconds` start-up may take so much longer (recovery of a big log)."""
        self._send(f"STATUS={status}", *(() if extend_seconds is None else (_extend(extend_seconds),)))

    def ready(self, status: str) -> None:
        """Recovered, and every listener takes connections. Also ends a reload."""
        self._send("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` ends it. The time is the monotonic clock's, in µs."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic() // 1000}")

    def stopping(self, status: str, extend_seconds: float) -> None:
        """Draining; it may take so long from now, also where the unit grants less."""
        self._send("STOPPING=1", f"STATUS={status}", _extend(extend_seconds))

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as s:
                s.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("the service manager does not hear us", extra={"error": str(error)})


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """WATCHDOG_USEC, unless WATCHDOG_PID says that it is meant for another process (sd_watchdog_enabled(3))."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None
