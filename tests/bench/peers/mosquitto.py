"""Mosquitto, MQTT 3.1.1 at QoS 1: one publisher, one subscriber that answers each message with PUBACK."""

import getpass
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.child import child, first_line, free_port, listening
from tests.bench.load import Load, Rates
from tests.bench.peers.side import PublishingSide, Side, measure

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
QOS_1 = 0x02


def text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def packet(head: int, rest: bytes) -> bytes:
    length, out = len(rest), bytearray([head])
    while True:
        length, low = divmod(length, 128)
        out.append(low | (128 if length else 0))
        if not length:
            return bytes(out) + rest


class Mqtt(Side):
    """Connects, and cuts what comes into packets."""

    client = b"p"
    clean = True

    def greet(self) -> None:
        flags = b"\x02" if self.clean else b"\x00"
        self.transport.write(packet(CONNECT, text(b"MQTT") + b"\x04" + flags + b"\x00\x00" + text(self.client)))

    def received(self, data: bytes) -> None:
        buffer, at = self.buffer + data, 0
        end = len(buffer)
        while end - at >= 2:
            start, length, shift = at + 1, 0, 0
            while start < end:
                byte = buffer[start]
                length |= (byte & 127) << shift
                start, shift = start + 1, shift + 7
                if not byte & 128:
                    break
            else:
                break
            if end < start + length:
                break
            self.packet(buffer[at], buffer, start)
            at = start + length
        self.buffer = buffer[at:]
        self.flush()

    def packet(self, head: int, buffer: bytes, start: int) -> None:
        """One packet, its variable header beginning at `start`."""
        raise NotImplementedError

    def flush(self) -> None:
        """All packets of a read were handled."""


class Publisher(Mqtt, PublishingSide):
    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.body = load.body()
        self.number = self.fresh = 0

    def frames(self, count: int) -> bytes:
        topic, body, out = text(b"q/x"), self.body, []
        for _ in range(count):
            self.number = self.number % 65_535 + 1
            out.append(packet(PUBLISH | QOS_1, topic + self.number.to_bytes(2, "big") + body))
        return b"".join(out)

    def packet(self, head: int, buffer: bytes, start: int) -> None:
        if head == PUBACK:
            self.fresh += 1
        elif head == CONNACK:
            self.ready.set_result(None)

    def flush(self) -> None:
        if self.fresh:
            self.settle(self.fresh)
            self.fresh = 0
            self.pump()


class Subscriber(Mqtt):
    client = b"s"

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.acks: list[bytes] = []

    def packet(self, head: int, buffer: bytes, start: int) -> None:
        if head & 0xF0 == PUBLISH:
            after = start + 2 + int.from_bytes(buffer[start : start + 2], "big")
            self.acks.append(b"\x40\x02" + buffer[after : after + 2] if head & 6 else b"")
        elif head == CONNACK:
            self.transport.write(packet(SUBSCRIBE, b"\0\1" + text(b"q/#") + b"\1"))
        elif head == SUBACK:
            self.ready.set_result(None)

    def flush(self) -> None:
        if self.acks:
            self.transport.write(b"".join(self.acks))
            self.settle(len(self.acks))
            self.acks = []


class Mosquitto:
    name = "mosquitto"
    durability = "no fsync before the confirm (in memory, saved on a timer)"
    share = 0.4

    def missing(self) -> str:
        return "" if _program() else "mosquitto (Debian: mosquitto)"

    def version(self) -> str:
        return "Mosquitto " + first_line(_program(), "-h").rpartition(" ")[2]

    async def measure(self, load: Load, folder: Path) -> Rates:
        async with self.served(folder) as port:
            return await measure(port, load, lambda: Publisher(load), lambda: Subscriber(load))

    @asynccontextmanager
    async def served(self, folder: Path) -> AsyncIterator[int]:
        """Mosquitto on a free port, listening."""
        port, config = free_port(), folder / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\nset_tcp_nodelay true\n"
            f"max_inflight_messages 0\nmax_queued_messages 0\npersistence true\npersistence_location {folder}/\n"
        )
        with child([_program(), "-c", str(config)], folder) as process:
            await listening(process, port, folder)
            yield port


def _program() -> str:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin") or ""
