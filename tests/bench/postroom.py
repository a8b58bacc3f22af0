"""The daemon under test: the real one, as a process of its own with a data folder of its own."""

import time
from pathlib import Path

import broker
from tests.bench import drive
from tests.bench.load import Load, Rates
from tests.system.served import Served


def served(folder: Path, fsync_delay: float = 0.0) -> Served:
    """`postroom serve`, ready, on free ports. Use it as a context: its end is the daemon's, by kill -9."""
    daemon = Served(folder, environ={"POSTROOM_ENGINE__SQLITE__FSYNC_DELAY": str(fsync_delay)})
    try:
        return daemon.ready()
    except BaseException:
        daemon.__exit__()
        raise


def timed_start(folder: Path) -> tuple[Served, float]:
    """The same, and the seconds from its exec to its ready line."""
    began = time.perf_counter()
    daemon = served(folder)
    return daemon, time.perf_counter() - began


def native_port(daemon: Served) -> int:
    """Of the native protocol."""
    return int(daemon.address("native").rpartition(":")[2])


def memory(daemon: Served) -> tuple[float, float]:
    """Resident memory now, and at most so far, in MB (10^6 bytes)."""
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    now, peak = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, peak


class Postroom:
    """The daemon as something that a load can be put on."""

    name = "postroom"
    durability = "fsync before the confirm (SQLite WAL, synchronous=FULL)"
    share = 1.0

    def __init__(self, fsync_delay: float = 0.0) -> None:
        self.fsync_delay = fsync_delay

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return f"postroom {broker.__version__}"

    async def measure(self, load: Load, folder: Path) -> Rates:
        with served(folder, self.fsync_delay) as daemon:
            port = native_port(daemon)
            return Rates(*await drive.round_trip(port, load.count, load.window, load.size, load.topics, load.ids))
