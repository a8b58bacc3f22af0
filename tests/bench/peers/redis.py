"""Redis streams: XADD, one consumer group, XREADGROUP in batches and XACK of each id."""

import re
import shutil
from pathlib import Path

from tests.bench.child import child, first_line, free_port, listening
from tests.bench.load import Load, Rates
from tests.bench.peers.side import PublishingSide, Side, measure


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Publisher(PublishingSide):
    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.one = command(b"XADD", b"q", b"*", b"b", load.body())

    def frames(self, count: int) -> bytes:
        return self.one * count

    def received(self, data: bytes) -> None:
        if data.startswith(b"-"):
            raise RuntimeError(f"redis refused: {data!r}")
        self.settle(data.count(b"$"))  # one id comes back per message
        self.pump()


class Consumer(Side):
    ids = re.compile(rb"\r\n(\d{13}-\d+)\r\n")
    head = re.compile(rb"\*1\r\n\*2\r\n\$1\r\nq\r\n\*(\d+)\r\n")
    ask = command(b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"1000", b"BLOCK", b"5000", b"STREAMS", b"q", b">")

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.tail = len(command(b"b", load.body()))

    def greet(self) -> None:
        self.transport.write(command(b"XGROUP", b"CREATE", b"q", b"g", b"0", b"MKSTREAM"))

    def received(self, data: bytes) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
            self.transport.write(self.ask)
            return
        self.buffer += data
        if not self._skip_replies():
            return
        head = self.head.match(self.buffer)
        if not head:
            return
        count = int(head[1])
        found = list(self.ids.finditer(self.buffer))
        if len(found) < count or len(self.buffer) < found[count - 1].end() + self.tail:
            return
        self.buffer = self.buffer[found[count - 1].end() + self.tail :]
        self.transport.write(command(b"XACK", b"q", b"g", *[match[1] for match in found[:count]]) + self.ask)
        self.settle(count)

    def _skip_replies(self) -> bool:
        """To XACK, and to an XREADGROUP that waited in vain; False when one is not here to its end."""
        while self.buffer[:1] in (b":", b"*") and not self.buffer.startswith(b"*1"):
            end = self.buffer.find(b"\r\n")
            if end < 0:
                return False
            if self.buffer.startswith(b"*-1"):
                self.transport.write(self.ask)
            self.buffer = self.buffer[end + 2 :]
        return True


class Redis:
    name = "redis"
    durability = "fsync before the confirm (AOF, appendfsync always)"
    share = 1.0

    def missing(self) -> str:
        return "" if shutil.which("redis-server") else "redis-server (Debian: redis-server)"

    def version(self) -> str:
        return "Redis " + first_line("redis-server", "--version").partition("v=")[2].partition(" ")[0]

    async def measure(self, load: Load, folder: Path) -> Rates:
        port = free_port()
        options = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        start = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), *options]
        with child(start, folder) as process:
            await listening(process, port, folder)
            return await measure(port, load, lambda: Publisher(load), lambda: Consumer(load))
