"""Clients of the HTTP door that mean harm: each is refused clearly or let go in time, and costs nobody else anything.

Bounds are for a machine that is shared; what was measured is printed (`pytest -s`).
"""

import asyncio
import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.protocols.http.frames import CONTINUATION, PONG, TEXT
from broker.protocols.http.frames import PING as PING_FRAME
from tests.protocols.http.frames import masked
from tests.system.door import bodies, publish, status
from tests.system.hostile import MIB, Raw, all_say, kept_up, memory, nobody_else_suffers, raw, reads_little
from tests.system.served import Served

pytestmark = pytest.mark.system

DEADLINE, WRITE_DEADLINE = 1.0, 2.0
CONFIG = """
[http]
request_timeout = "1s"
write_timeout = "2s"
[limits]
max_arriving = 33_554_432
max_unsent = 67_108_864
"""
HEAD = b"POST /v1/topics/attack/1/messages HTTP/1.1\r\nHost: localhost\r\n"
PING = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("hostile"), CONFIG) as served:
        yield served.ready()


async def drip(attacker: Raw, begin: bytes, more: bytes) -> bytes:
    """Send `more` byte by byte, for ever; what the daemon says at its end."""
    attacker.say(begin)
    answer = asyncio.create_task(attacker.end())
    at = 0
    while not answer.done():
        attacker.say(more[at : at + 1])
        at = (at + 1) % len(more)
        await asyncio.wait([answer], timeout=0.05)
    return answer.result()


def statuses(answers: bytes) -> list[int]:
    """Of all responses in a row."""
    return [int(code) for code in re.findall(rb"HTTP/1\.\d (\d{3}) ", answers)]


# Too slow


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"", HEAD),
        (HEAD + b"X: ", b"y"),
        (HEAD, b"A: b\r\n"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n", b"x"),
    ],
    ids=["request line", "one header", "many headers", "body", "chunks", "chunk"],
)
async def test_slowloris(served: Served, begin: bytes, more: bytes) -> None:
    loop = asyncio.get_running_loop()
    with nobody_else_suffers(served, grows=32 * MIB):
        async with raw(served, "http", 200) as attackers:
            began = loop.time()
            answers = await asyncio.gather(*(drip(attacker, begin, more) for attacker in attackers))
            took = loop.time() - began
    assert {tuple(statuses(answer)) for answer in answers} == {(408,)}
    assert took < DEADLINE + 2.0  # all of them, from the first byte


async def test_bodies_that_stop_at_the_last_byte(served: Served) -> None:
    """100 MiB in all, of which a third fits: the rest is let go before its deadline, and told why."""
    with nobody_else_suffers(served, grows=110 * MIB):
        async with raw(served, "http", 100) as attackers:
            for attacker in attackers:
                attacker.say(HEAD + b"Content-Length: %d\r\n\r\n" % MIB + bytes(MIB - 1))
            answers = await asyncio.gather(*(attacker.end() for attacker in attackers))
    codes = [code for answer in answers for code in statuses(answer)]
    assert set(codes) == {408, 503}
    assert any(b"limits.max_arriving" in answer for answer in answers)
    assert publish(served, "after", b"x")[0] == 201


# Too much


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"".join(b"A%d: x\r\n" % i for i in range(100_000)), 400),
        (b"A: x\r\n" * 100_000, 400),
        (b"A: " + b"x" * MIB + b"\r\n", 431),
        (b"Content-Length: 99999999999999999999999999\r\n\r\n", 400),
        (b"Content-Length: 1048577\r\n\r\n", 413),
        (b"Expect: 100-continue\r\nContent-Length: 1048577\r\n\r\n", 413),
    ],
    ids=["many headers", "one header again and again", "a long one", "a huge body", "a byte too much", "asked first"],
)
async def test_floods_of_headers_and_bodies_that_are_announced(served: Served, head: bytes, code: int) -> None:
    with nobody_else_suffers(served, grows=64 * MIB):
        found = await kept_up(lambda: all_say(served, "http", HEAD + head, 20))
    told = {tuple(statuses(answer)) for answers in found for answer in answers}
    assert told <= {(code,), ()}  # one that floods on into a connection that closes may not hear it


async def test_a_body_without_a_length_ends_at_the_limit(served: Served) -> None:
    async def flood(attacker: Raw) -> bytes:
        attacker.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        answer = asyncio.create_task(attacker.end())
        for _ in range(2_000):
            if answer.done() or not await attacker.push(b"10000\r\n" + bytes(1 << 16) + b"\r\n"):
                break
        return await answer

    with nobody_else_suffers(served, grows=64 * MIB):
        async with raw(served, "http", 20) as attackers:
            answers = await asyncio.gather(*map(flood, attackers))
    found = [statuses(answer) for answer in answers]
    assert [413] in found
    assert all(each in ([413], []) for each in found)


BOMB = gzip.compress(bytes(256 * MIB), 9)


@pytest.mark.parametrize(
    ("encoding", "bomb"),
    [
        (b"gzip", BOMB),
        (b"gzip", gzip.compress(BOMB)),
        (b"deflate", zlib.compress(bytes(256 * MIB), 9)),
        (b"gzip, gzip", gzip.compress(BOMB)),
    ],
    ids=["gzip", "gzip of gzip", "deflate", "gzip twice"],
)
async def test_bombs(served: Served, encoding: bytes, bomb: bytes) -> None:
    """256 MiB of nothing in 256 KiB, 20 at a time."""
    head = HEAD + b"Content-Encoding: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (encoding, len(bomb))
    with nobody_else_suffers(served, grows=64 * MIB):
        found = await kept_up(lambda: all_say(served, "http", head + bomb, 20))
    assert {code for answers in found for answer in answers for code in statuses(answer)} <= {400, 413, 201}
    assert all(len(answer) < 4_096 for answers in found for answer in answers)


async def test_bombs_that_stop_before_their_end(served: Served) -> None:
    """Little is sent, much is kept: what is kept counts."""
    bomb = gzip.compress(bytes(MIB - 1), 9)
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    with nobody_else_suffers(served, grows=80 * MIB):
        async with raw(served, "http", 200) as attackers:
            for attacker in attackers:
                attacker.say(head % len(bomb) + bomb[:-12])
            answers = await asyncio.gather(*(attacker.end() for attacker in attackers))
    assert {code for answer in answers for code in statuses(answer)} == {408, 503}


# Not what it seems


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
        b"Content-Length: 0, 5\r\n\r\n",
        b"Content-Length: +5\r\n\r\n",
        b"Content-Length: 5 \x0b\r\n\r\n",
        b"Content-Length: 0x5\r\n\r\n",
        b"Content-Length:\r\n\r\n",
        b"Content\x00-Length: 5\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1 ; a\nb\r\nx\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\rx\r\n0\r\n\r\n",
    ],
    ids=lambda framing: str(framing)[2:60],
)
async def test_a_second_request_cannot_be_smuggled(served: Served, framing: bytes) -> None:
    """What two readers could take for different requests is one refusal, and the connection ends with it."""
    hidden = b"POST /v1/topics/smuggled/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    async with raw(served, "http") as (attacker,):
        attacker.say(HEAD + framing + hidden)
        assert statuses(await attacker.end()) in ([400], [431], [413])
    assert bodies(served, "smuggled") == []


async def test_bodies_of_a_million_chunks(served: Served) -> None:
    """A byte in each: six times the work of its size, and no more."""
    chunks = b"1\r\nx\r\n" * (1 << 20)
    with nobody_else_suffers(served, grows=64 * MIB):
        head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        found = await kept_up(lambda: all_say(served, "http", head + chunks + b"0\r\n\r\n", 4))
    assert {code for answers in found for answer in answers for code in statuses(answer)} <= {201, 408, 413}


async def test_half_closed(served: Served) -> None:
    """Who says all and closes his side is answered; who says half and closes it is let go."""
    whole = HEAD + b"Content-Length: 2\r\n\r\nhi"
    with nobody_else_suffers(served, grows=32 * MIB):
        async with raw(served, "http", 200) as attackers:
            for i, attacker in enumerate(attackers):
                attacker.say(whole if i % 2 else whole[:-1])
                attacker.writer.write_eof()
            answers = await asyncio.gather(*(attacker.end() for attacker in attackers))
    assert all(statuses(answer) in ([201], []) for answer in answers[1::2])
    assert not any(201 in statuses(answer) for answer in answers[::2])


# Too many at once


async def test_pipelines_that_end_in_garbage_and_are_not_read(served: Served) -> None:
    """10,000 requests in one go on each of 20 connections, nobody takes the answers, then bytes that are no HTTP."""
    flood = PING * 10_000 + b"\x00\xff garbage\r\n\r\n"
    loop = asyncio.get_running_loop()
    with nobody_else_suffers(served, grows=96 * MIB), contextlib.ExitStack() as stack:
        socks = [stack.enter_context(reads_little(served, "http")) for _ in range(20)]
        for sock in socks:
            sock.setblocking(False)
        pushing = [asyncio.ensure_future(loop.sock_sendall(sock, flood)) for sock in socks]
        await asyncio.wait(pushing, timeout=4)
        for task in pushing:
            task.cancel()
        await asyncio.gather(*pushing, return_exceptions=True)
    assert status(served)["state"] == "running"


async def test_answers_that_nobody_reads(served: Served) -> None:
    """100 pages at once; a page is small, few are made at a time, and who does not read is dropped by the deadline."""
    for _ in range(8):
        assert publish(served, "large", b"x" * (MIB - 1))[0] == 201
    request = b"GET /v1/topics/large/messages?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with nobody_else_suffers(served, grows=300 * MIB), contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(reads_little(served, "http")).sendall(request)
        await asyncio.sleep(2 * WRITE_DEADLINE)
    assert memory(served) < 500 * MIB


async def idle(served: Served, count: int) -> None:
    """From an address of their own, which has room for 10,000."""
    with nobody_else_suffers(served, grows=count * 24_000):
        async with raw(served, "http", count, "127.0.0.9") as attackers:
            answers = await asyncio.gather(*(attacker.end() for attacker in attackers))
    assert set(answers) == {b""}


async def test_thousands_of_idle_connections(served: Served) -> None:
    await idle(served, 2_000)


@pytest.mark.proof
async def test_ten_thousand_idle_connections(tmp_path: Path) -> None:
    """As many as one address may have; one more is told, another address has room."""
    with Served(tmp_path, CONFIG.replace('request_timeout = "1s"', 'request_timeout = "15s"')) as served:
        served.ready()
        with nobody_else_suffers(served, grows=240 * MIB):
            async with raw(served, "http", 10_000, "127.0.0.9"), raw(served, "http", 1, "127.0.0.9") as (one_more,):
                assert statuses(await one_more.end()) == [429]
                assert publish(served, "idle", b"x")[0] == 201


# By WebSocket

HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize("reads", [True, False], ids=["who reads", "who does not"])
@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"", masked(bytes(125), PING_FRAME)),
        (b"", masked(b"", PING_FRAME)),
        (b"", masked(b"", PONG)),
        (masked(b"", TEXT, fin=False), masked(b"", CONTINUATION, fin=False)),
        (masked(b"[", TEXT, fin=False), masked(b"", CONTINUATION, fin=False)),
    ],
    ids=["pings", "empty pings", "pongs", "empty fragments", "empty fragments of a text"],
)
async def test_floods_of_frames_that_say_nothing(served: Served, begin: bytes, again: bytes, *, reads: bool) -> None:
    """Tens of thousands come in a read: nothing of them is kept, and others have their turn between them."""
    flood = again * (MIB // len(again))

    async def attack(attacker: Raw) -> None:
        listening = asyncio.create_task(attacker.end()) if reads else None
        attacker.say(HANDSHAKE + begin)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while await attacker.push(flood):
                    pass
        attacker.writer.transport.abort()
        if listening is not None:
            await listening

    with nobody_else_suffers(served, grows=32 * MIB, p99=1.0):
        async with raw(served, "http", 3) as attackers:
            await asyncio.gather(*map(attack, attackers))
