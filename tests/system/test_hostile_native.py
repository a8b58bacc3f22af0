"""Clients of the native door that mean harm, or just do not stop: nobody else waits for them, and memory is bounded.

Bounds are for a machine that is shared; what was measured is printed (`pytest -s`).
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgpack
import pytest

from tests.system.door import status
from tests.system.frames import ATTACH, CONFIRM, HELLO, PING, PUBLISH, WELCOME, encode
from tests.system.hostile import MIB, Raw, all_say, kept_up, nobody_else_suffers, raw, reads_little
from tests.system.served import Served

pytestmark = pytest.mark.system

CONFIG = """
[native]
hello_timeout = "1s"
[limits]
max_arriving = 33_554_432
max_unsent = 67_108_864
max_uncommitted = 33_554_432
"""
GREETING = encode(HELLO, 1, {"client": "hostile"})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("hostile"), CONFIG) as served:
        yield served.ready()


@asynccontextmanager
async def greeted(served: Served, count: int) -> AsyncIterator[list[Raw]]:
    """So many connections that have said HELLO and heard WELCOME."""
    async with raw(served, "native", count) as made:
        for each in made:
            each.say(GREETING)
        for each in made:
            size = int.from_bytes(await each.reader.readexactly(4), "big")
            assert (await each.reader.readexactly(size))[1] == WELCOME
        yield made


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff\xff\xff" + bytes(MIB), b"frame_too_large"),
        (GREETING + b"\x7f\xff\xff\xff" + bytes(MIB), b"frame_too_large"),
        (GREETING + b"\x00\x01\x00\x00" + b"\x91" * 65_536, b"bad_frame"),
        (GREETING + b"\x00\x00\x00\x05\xdd\xff\xff\xff\xff", b"bad_frame"),
        (GREETING + b"\x00\x00\x00\x05\xdf\xff\xff\xff\xff", b"bad_frame"),
        (GREETING + b"\x00\x00\x00\x06\x92\x02\xc6\xff\xff\xff", b"bad_frame"),
        (GREETING * 100_000, b"bad_frame"),
        (b"GET / HTTP/1.1\r\n\r\n" * 10_000, b"frame_too_large"),
    ],
    ids=["no greeting", "a giant", "a nest", "a list", "a map", "a body", "greetings", "HTTP"],
)
async def test_frames_that_are_none(served: Served, data: bytes, code: bytes) -> None:
    with nobody_else_suffers(served, grows=48 * MIB):
        found = await kept_up(lambda: all_say(served, "native", data, 20))
    assert any(code in answer for answers in found for answer in answers)  # one that sends on may not hear it


async def test_greetings_byte_by_byte(served: Served) -> None:
    async with raw(served, "native", 200) as attackers:
        with nobody_else_suffers(served, grows=16 * MIB):
            ends = [asyncio.create_task(attacker.end()) for attacker in attackers]
            for at in itertools.count():
                for attacker in attackers:
                    attacker.say(GREETING[at % 20 : at % 20 + 1])
                if (await asyncio.wait(ends, timeout=0.05))[1] == set():
                    break
    assert all(b"not_greeted" in task.result() for task in ends)


async def test_frames_that_stop_before_their_end(served: Served) -> None:
    """30 of 8 MiB each: what does not fit is let go, and told why."""
    frame = encode(PUBLISH, 1, [["attack", bytes(MIB - 100)]] * 7)
    with nobody_else_suffers(served, grows=64 * MIB):
        async with greeted(served, 30) as attackers:
            pushing = [asyncio.create_task(attacker.push(frame[:-1])) for attacker in attackers]
            ends = [asyncio.create_task(attacker.end()) for attacker in attackers]
            await asyncio.wait(ends, timeout=3)
            told = [task.result() for task in ends if task.done()]
            for task in (*pushing, *ends):
                task.cancel()
            await asyncio.gather(*pushing, *ends, return_exceptions=True)
    assert len(told) >= 20
    assert any(b"limits.max_arriving" in answer for answer in told)


async def test_millions_of_tiny_frames(served: Served) -> None:
    """A million frames on 4 connections; who asks much and does not read the answers is not read any more."""

    async def flood(attacker: Raw) -> None:
        block = encode(PING, 1) * 10_000
        for _ in range(25):
            if not await attacker.push(block):
                return

    with nobody_else_suffers(served, grows=110 * MIB):
        async with greeted(served, 4) as attackers:
            floods = [asyncio.create_task(flood(attacker)) for attacker in attackers]
            await asyncio.wait(floods, timeout=8)
            for task in floods:
                task.cancel()
            await asyncio.gather(*floods, return_exceptions=True)


async def test_readers_that_do_not_read(served: Served) -> None:
    """50 taps with credit without end, and 100 MiB for each of them."""
    attach = encode(ATTACH, 1, None, {"topics": ["flood/#"], "live": "tap", "credit": 1 << 40})
    body = bytes(MIB // 4)
    with nobody_else_suffers(served, grows=300 * MIB), contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(reads_little(served, "native")).sendall(GREETING + attach)
        async with greeted(served, 1) as (publisher,):
            for first in range(1, 400, 4):
                publisher.say(encode(PUBLISH, first, [["flood/1", body]] * 4))
                await confirmed(publisher, first + 3)


async def confirmed(link: Raw, upto: int) -> None:
    """Read on until this sequence is on disk."""
    while True:
        size = int.from_bytes(await link.reader.readexactly(4), "big")
        frame = await link.reader.readexactly(size)
        if frame[1] == CONFIRM and _sequence(frame) >= upto:
            return


def _sequence(frame: bytes) -> int:
    return int(msgpack.unpackb(frame, use_list=False)[1])


# Fairness


@pytest.mark.parametrize(("connections", "size"), [(1, 256), (1, MIB - 100), (100, 256), (100, MIB - 100)])
async def test_a_flood_of_publishes_starves_nobody(served: Served, connections: int, size: int) -> None:
    """As fast as it goes, pipelined without end, on one connection or a hundred of them."""
    count = max(1, min(1_000, (1 << 18) // size))

    async def flood(attacker: Raw) -> None:
        for first in itertools.count(1, count):
            if not await attacker.push(encode(PUBLISH, first, [["attack/flood", bytes(size)]] * count)):
                return

    async def swallow(attacker: Raw) -> None:
        await attacker.end(3600)

    with nobody_else_suffers(served, grows=400 * MIB, p99=3.0):
        async with greeted(served, connections) as attackers:
            tasks = [asyncio.create_task(work(attacker)) for attacker in attackers for work in (flood, swallow)]
            await asyncio.sleep(5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert status(served)["state"] == "running"
