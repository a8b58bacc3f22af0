"""Brokers that are killed and come back at the same place: Postrooms, and Debian's mosquitto."""

import getpass
import json
import shutil
import signal
import socket
import subprocess
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any

import pytest

from tests.bench.child import free_port
from tests.system.door import ask, status
from tests.system.served import WITHIN, Served

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/sbin:/bin") or ""
needs_mosquitto = pytest.mark.skipif(not MOSQUITTO, reason="there is no mosquitto (Debian: mosquitto)")


def wait_until(condition: Any, within: float = 3 * WITHIN) -> None:
    """Until it holds. Fails when it does not."""
    deadline = monotonic() + within
    while not condition():
        assert monotonic() < deadline, "it did not come about in time"
        sleep(0.02)


class Site:
    """A Postroom on a folder, with an MQTT port that it keeps."""

    def __init__(self, folder: Path, config: str = "") -> None:
        folder.mkdir()
        self._folder = folder
        self.config = config
        self.port = free_port()
        self._served: Served | None = None

    def __enter__(self) -> "Site":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def served(self) -> Served:
        """The process that is there now."""
        assert self._served is not None
        return self._served

    def start(self) -> None:
        self._served = Served(self._folder, self.config, {"POSTROOM_MQTT__PORT": str(self.port)})
        self._served.ready()

    def kill(self) -> None:
        """kill -9."""
        if self._served is not None:
            self._served.__exit__()
            self._served = None

    def reload(self, config: str) -> None:
        """SIGHUP, with another configuration."""
        self.config = config
        self.served.config.write_text(config)
        self.served.signal(signal.SIGHUP)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.served.signal(signal.SIGTERM)
        return self.served.ended()

    def publish(self, topic: str, numbers: range) -> None:
        """Each number as a message, in order."""
        for start in range(numbers.start, numbers.stop, 1_000):
            part = range(start, min(start + 1_000, numbers.stop))
            body = json.dumps([{"topic": topic, "body": n} for n in part]).encode()
            code, answer, _ = ask(self.served, "POST", "/v1/messages", body, {"Content-Type": "application/json"})
            assert code < 300, answer

    def bridge(self, name: str) -> dict[str, Any]:
        """What `/v1/status` says of a bridge."""
        found: dict[str, Any] = status(self.served)["mqtt_bridge"][name]
        return found

    def numbers(self, topic: str) -> list[int]:
        """What was published, in the order of the log."""
        found: list[int] = []
        start = "earliest"
        while True:
            page = ask(self.served, "GET", f"/v1/topics/{topic}/messages?limit=1000&from={start}")[1]
            found += [int(m["body"] if "body" in m else b64decode(m["body_base64"])) for m in page["messages"]]
            if not page["messages"]:
                return found
            start = page["next"]

    def count(self, topic: str) -> int:
        """Messages of a topic."""
        topics = ask(self.served, "GET", "/v1/topics")[1]["topics"]
        return next((entry["messages"] for entry in topics if entry["name"] == topic), 0)


class Mosquitto:
    """Debian's, which keeps its state over an orderly stop."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\n"
            f"max_queued_messages 0\npersistence true\npersistence_location {folder}/\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Mosquitto":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end(signal.SIGKILL)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._listens)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        """In order: it writes down what it knows."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(WITHIN)
            self._process = None
