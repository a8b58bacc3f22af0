"""RabbitMQ with one quorum queue, AMQP 0-9-1: publisher confirms, prefetch, cumulative acks."""

import asyncio
import os
import shutil
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.child import child, first_line, free_port, listening
from tests.bench.load import Load, Rates
from tests.bench.peers.side import PublishingSide, Side, measure

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""Debian's own command drops to a user of its own, who may not write to our folder."""
WARM_UP = 3.0
"""Seconds that it goes on starting after it listens."""
PREFETCH = 2000
MAX_FRAME = 131_072
END = b"\xce"
METHOD, HEADER, BODY = 1, 2, 3

START, START_OK, TUNE, TUNE_OK = (10, 10), (10, 11), (10, 30), (10, 31)
OPEN, OPEN_OK, CLOSE, CHANNEL_OPEN, CHANNEL_OPEN_OK = (10, 40), (10, 41), (10, 50), (20, 10), (20, 11)
CHANNEL_CLOSE, DECLARE, DECLARE_OK, QOS, QOS_OK = (20, 40), (50, 10), (50, 11), (60, 10), (60, 11)
CONSUME, CONSUME_OK, PUBLISH, DELIVER, ACK = (60, 20), (60, 21), (60, 40), (60, 60), (60, 80)
SELECT, SELECT_OK = (85, 10), (85, 11)
_DELIVER, _ACK = struct.pack(">HH", *DELIVER), struct.pack(">HH", *ACK)


def short(text: bytes) -> bytes:
    return bytes((len(text),)) + text


def long(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


def frame(kind: int, payload: bytes, channel: int = 1) -> bytes:
    return struct.pack(">BHL", kind, channel, len(payload)) + payload + END


def method(name: tuple[int, int], arguments: bytes, channel: int = 1) -> bytes:
    return frame(METHOD, struct.pack(">HH", *name) + arguments, channel)


def message(queue: bytes, body: bytes) -> bytes:
    """One persistent message to a queue: method, header, body."""
    header = struct.pack(">HHQHB", 60, 0, len(body), 1 << 12, 2)
    return method(PUBLISH, b"\0\0" + short(b"") + short(queue) + b"\0") + frame(HEADER, header) + frame(BODY, body)


class Amqp(Side):
    """Opens a channel and declares the queue; what follows is the subclass's."""

    greeting = (
        (START, START_OK, long(b"") + short(b"PLAIN") + long(b"\0guest\0guest") + short(b"en_US"), 0),
        (TUNE, TUNE_OK, struct.pack(">HLH", 2047, MAX_FRAME, 0), 0),
        (OPEN_OK, CHANNEL_OPEN, short(b""), 1),
        (
            CHANNEL_OPEN_OK,
            DECLARE,
            b"\0\0" + short(b"q") + b"\x02" + long(short(b"x-queue-type") + b"S" + long(b"quorum")),
            1,
        ),
    )
    rest: Sequence[tuple[tuple[int, int], tuple[int, int], bytes, int]] = ()
    last: tuple[int, int]

    def greet(self) -> None:
        self.transport.write(b"AMQP\0\0\x09\x01")

    def received(self, data: bytes) -> None:
        buffer, at = self.buffer + data, 0
        while len(buffer) - at >= 8:
            end = at + 8 + int.from_bytes(buffer[at + 3 : at + 7], "big")
            if len(buffer) < end:
                break
            if buffer[at] == METHOD:
                self.method(buffer[at + 7 : end - 1])
            at = end
        self.buffer = buffer[at:]
        self.flush()

    def method(self, payload: bytes) -> None:
        name = struct.unpack_from(">HH", payload)
        if name in (CLOSE, CHANNEL_CLOSE):
            raise RuntimeError(f"rabbitmq refused: {payload[7 : 7 + payload[6]].decode(errors='replace')}")
        for expected, answer, arguments, channel in (*self.greeting, *self.rest):
            if name == expected:
                self.transport.write(method(answer, arguments, channel))
        if name == TUNE:
            self.transport.write(method(OPEN, short(b"/") + short(b"") + b"\0", 0))
        if name == self.last:
            self.ready.set_result(None)

    def flush(self) -> None:
        """All frames of a read were handled."""


class Publisher(Amqp, PublishingSide):
    rest = ((DECLARE_OK, SELECT, b"\0", 1),)
    last = SELECT_OK

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.one = message(b"q", load.body())
        self._highest = 0

    def frames(self, count: int) -> bytes:
        return self.one * count

    def method(self, payload: bytes) -> None:
        if payload[:4] != _ACK:
            super().method(payload)
        elif payload[12] & 1:  # this one and all before it
            self.settle(max(0, int.from_bytes(payload[4:12], "big") - self.settled))
        else:
            self.settle(1)

    def flush(self) -> None:
        if self.sent:
            self.pump()


class Consumer(Amqp):
    rest = (
        (DECLARE_OK, QOS, struct.pack(">LHB", 0, PREFETCH, 0), 1),
        (QOS_OK, CONSUME, b"\0\0" + short(b"q") + short(b"c") + b"\0" + long(b""), 1),
    )
    last = CONSUME_OK
    tag = 0
    fresh = 0

    def method(self, payload: bytes) -> None:
        if payload[:4] != _DELIVER:
            super().method(payload)
            return
        at = 5 + payload[4]
        self.tag = int.from_bytes(payload[at : at + 8], "big")
        self.fresh += 1

    def flush(self) -> None:
        if self.fresh:
            self.transport.write(method(ACK, struct.pack(">QB", self.tag, 1)))
            self.settle(self.fresh)
            self.fresh = 0


class RabbitMq:
    name = "rabbitmq-quorum"
    durability = "fsync before the confirm (quorum queue of one node)"
    share = 0.3

    def missing(self) -> str:
        return "" if Path(SERVER).exists() and shutil.which("epmd") else "rabbitmq-server (Debian: rabbitmq-server)"

    def version(self) -> str:
        package = first_line("dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server")
        return f"RabbitMQ {package.partition('-')[0]}"

    async def measure(self, load: Load, folder: Path) -> Rates:
        port, names = free_port(), free_port()
        with ExitStack() as stack:
            # Its own would stay behind as a daemon of nobody's.
            mapper = stack.enter_context(child(["epmd", "-port", str(names)], folder))
            await listening(mapper, names, folder)
            process = stack.enter_context(child([SERVER], folder, _environ(folder, port, names)))
            await listening(process, port, folder)
            await asyncio.sleep(WARM_UP)
            return await measure(port, load, lambda: Publisher(load), lambda: Consumer(load))


def _environ(folder: Path, port: int, names: int) -> dict[str, str]:
    (folder / "plugins").write_text("[].\n")
    return {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_NODENAME": f"bench{os.getpid()}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
