"""What attacks have in common: many raw connections, and a verdict on the daemon and a bystander."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from tests.system.pulse import a_pulse
from tests.system.served import WITHIN, Served

MIB = 1 << 20
T = TypeVar("T")
P99 = 2.0
"""Seconds within which 99 of 100 publishes of the bystander must be confirmed, on a machine that others use too."""


def memory(served: Served, field: str = "VmRSS") -> int:
    """Bytes that the daemon has in memory; `VmHWM`: at its peak."""
    text = Path(f"/proc/{served.process.pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith(field)))


async def kept_up(attack: Callable[[], Awaitable[T]], seconds: float = 2.0) -> list[T]:
    """The attack again and again for so long; what each brought."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    found = [await attack()]
    while loop.time() < end:
        found.append(await attack())
    return found


@contextmanager
def nobody_else_suffers(served: Served, *, grows: int, p99: float = P99) -> Iterator[None]:
    """The block is an attack: meanwhile a bystander is served as always, and the daemon's memory grows by no more than
    `grows` bytes, at its peak."""
    Path(f"/proc/{served.process.pid}/clear_refs").write_text("5")  # the peak begins anew
    before, told = memory(served), len(served.errors())
    with a_pulse(served) as pulse:
        yield
    grown = memory(served, "VmHWM") - before
    print(f"\n  {pulse}; memory {before >> 20} MiB, at its peak {grown / MIB:+.1f} MiB")
    assert pulse.p99() < p99, str(pulse)
    assert grown < grows, f"{grown >> 20} MiB"
    assert served.process.poll() is None
    assert served.errors()[told:] == []


class Raw:
    """A connection of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        """Without waiting; to one who has gone it is said in vain."""
        if not self.writer.is_closing():
            self.writer.write(data)

    async def push(self, data: bytes) -> bool:
        """Say it and wait until the other side takes it; False when it has gone."""
        self.say(data)
        try:
            await self.writer.drain()
        except ConnectionError:
            return False
        return not self.writer.is_closing()

    async def end(self, within: float = WITHIN) -> bytes:
        """All that comes until the other side closes."""
        heard = b""
        async with asyncio.timeout(within):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(1 << 16):
                    heard += data
        return heard


@asynccontextmanager
async def raw(served: Served, door: str, count: int = 1, address: str = "127.0.0.1") -> AsyncIterator[list[Raw]]:
    """So many connections from a loopback address, broken at the end."""
    host, _, port = served.address(door).rpartition(":")
    made: list[Raw] = []
    try:
        for _ in range(count):
            streams = await asyncio.open_connection(host, int(port), local_addr=(address, 0))
            made.append(Raw(*streams))
        yield made
    finally:
        for each in made:
            each.writer.transport.abort()


async def all_say(served: Served, door: str, data: bytes, count: int) -> list[bytes]:
    """So many connections say it at once; what each hears until it is closed."""
    async with raw(served, door, count) as attackers:
        for attacker in attackers:
            attacker.say(data)
        return list(await asyncio.gather(*(attacker.end() for attacker in attackers)))


def reads_little(served: Served, door: str) -> socket.socket:
    """A connection with a small window, for one who does not read."""
    host, _, port = served.address(door).rpartition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(WITHIN)
    sock.connect((host, int(port)))
    return sock
