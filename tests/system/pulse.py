"""An ordinary publisher and worker, in a process of its own, that measures how it is served while others misbehave.

`python -m tests.system.pulse postroom://HOST:PORT`: publishes and works off a message every few milliseconds, until
its standard input ends; then it says what it saw, as JSON.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from postroom_client import sync

from tests.system.served import WITHIN, Served

EVERY = 0.01
"""Seconds between a message that came back and the next."""


def _until_told(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


def run(url: str) -> None:
    over = threading.Event()
    threading.Thread(target=_until_told, args=(over,), daemon=True).start()
    confirmed: list[float] = []
    delivered: list[float] = []
    with sync.connect(url) as client:
        client.put_subscription(f"pulse-{os.getpid()}", f"pulse/{os.getpid()}", **{"from": "latest"})
        with client.consume(f"pulse-{os.getpid()}") as deliveries:
            while not over.is_set():
                begun = monotonic()
                receipt = client.publish(f"pulse/{os.getpid()}", "beat")
                confirmed.append(monotonic() - begun)
                message = deliveries.receive(WITHIN)
                delivered.append(monotonic() - begun)
                if message.offset != receipt.offset:
                    raise AssertionError("another message than the one that was published")
                message.settle("ack")
                if len(confirmed) == 1:
                    print("beating", flush=True)
                sleep(EVERY)
        client.delete_subscription(f"pulse-{os.getpid()}")
    print(json.dumps({"confirmed": confirmed, "delivered": delivered}))


@dataclass
class Pulse:
    """What was seen, in seconds; filled at the end of the block."""

    confirmed: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)

    def p99(self) -> float:
        """Of publishing, from the call to the confirm."""
        return sorted(self.confirmed)[int(len(self.confirmed) * 0.99)]

    def __str__(self) -> str:
        times = sorted(self.confirmed)
        return (
            f"{len(times)} beats, confirm p50 {1000 * times[len(times) // 2]:.1f} ms, p99 {1000 * self.p99():.1f} ms,"
            f" longest {1000 * times[-1]:.1f} ms; delivery longest {1000 * max(self.delivered):.1f} ms"
        )


@contextmanager
def a_pulse(served: Served) -> Iterator[Pulse]:
    """Beside whatever happens in the block. Fails when it was not served, or was told an error."""
    pulse = Pulse()
    command = [sys.executable, "-m", "tests.system.pulse", f"postroom://{served.address('native')}"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "beating\n"
            yield pulse
            out, errors = process.communicate("", WITHIN)
            assert process.returncode == 0, errors
            seen = json.loads(out)
            pulse.confirmed, pulse.delivered = seen["confirmed"], seen["delivered"]
        finally:
            process.kill()


if __name__ == "__main__":
    run(sys.argv[1])
