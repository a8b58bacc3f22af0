"""What figures depend on and the reader must know: processor, versions, how long the disk takes for an fsync, and
whether others are using the machine."""

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

WRITES = 200
BUSY = 0.25
"""Load average per core above which somebody else is at work."""


def fsync_seconds(folder: Path | None, clock: Callable[[], float] = time.perf_counter) -> float:
    """The median of appending 4 KiB to a file and making it durable."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(WRITES):
            file.write(os.urandom(4096))
            file.flush()
            began = clock()
            os.fsync(file.fileno())
            times.append(clock() - began)
    return statistics.median(times)


def description(folder: Path | None) -> dict[str, str]:
    """For the head of a report."""
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fsync of 4 KiB": f"{fsync_seconds(folder) * 1000:.3f} ms",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def busy() -> bool:
    """Is somebody else at work?"""
    return os.getloadavg()[0] > BUSY * (os.cpu_count() or 1)
