"""Packets of the vectors in any order, some of them broken or cut, over sessions that come and go: the door goes on."""

import asyncio
import gc
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import V5, Connect, Properties
from broker.protocols.mqtt.connection import Connection
from tests.protocols.mqtt.door import PATIENCE, Client, Door, open_door
from tests.protocols.mqtt.strategies import VERSIONS
from tests.protocols.mqtt.test_fuzz import mutated
from tests.protocols.mqtt.vectors import load, needed

CONNECTIONS = 1_000
NAMES = 6


def greeting(version: int, number: int, *, clean: bool, expiry: int, window: int) -> bytes:
    wishes: Properties = {"session_expiry": expiry, "receive_maximum": window}
    return encode(Connect(version, f"c{number}", clean, properties=wishes if version == V5 else {}), version)


async def check_it_goes_on(door: Door, faults: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is forgotten, nothing is left over, and the next client is served."""
    await asyncio.sleep(0.2)
    last = await door.connect("last")
    assert await last.publish("still/here", "yes", 2) is Reason.SUCCESS
    sessions = door.server.sessions
    async with asyncio.timeout(4 * PATIENCE):
        while sessions._turns._queues or len(door.server.connections) > 1:  # noqa: ASYNC110  who is gone is noticed late
            await asyncio.sleep(0.01)
    await sessions.stop()
    assert len(door.server.connections) == 1
    assert len(door.server.sessions) <= NAMES + 1
    assert not sessions._turns._queues
    gc.collect()
    assert sum(isinstance(found, Connection) for found in gc.get_objects()) == 1
    assert not faults, faults[:3]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@needed
async def test_nothing_that_clients_send_stops_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random, faults = Random(7), list[dict[str, Any]]()
    sent = [data for vector in load() for direction, data in vector.steps if direction == "send"]
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with open_door(tmp_path) as door:
        for number in range(CONNECTIONS):
            version, expiry, window = random.choice((3, 4, 5)), random.choice((0, 60)), random.randint(1, 5)
            client = await door.dial(version)
            name, clean = random.randrange(NAMES), random.random() < 0.5
            client.raw(greeting(version, name, clean=clean, expiry=expiry, window=window))
            for _ in range(random.randint(1, 8)):
                data = bytearray(random.choice(sent))
                if data and random.random() < 0.3:
                    data[random.randrange(len(data))] = random.randrange(256)
                client.raw(bytes(data[: random.randrange(len(data) + 1)] if random.random() < 0.2 else data))
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0)
            await client.lost()
            door.clients.remove(client)
            if number % 50 == 0:
                door.server.tick()
        await check_it_goes_on(door, faults, caplog)


class Fuzzed:
    """A client that keeps what it is answered."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard = b""

    async def listen(self) -> None:
        """To all that comes, until the end."""
        while data := await self.client._reader.read(1 << 16):
            self.heard += data

    def understand(self) -> None:
        """Another's codec reads every packet."""
        view, at = memoryview(self.heard), 0
        while at < len(view):
            try:
                _, size = mqtt5.read(view[at:])
            except IndexError:  # the connection was lost within it
                return
            at += size


@needed
def test_several_at_once_are_answered_in_packets_that_another_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = list[dict[str, Any]]()

    async def run(door: Door, talk: list[tuple[int, bytes]]) -> None:
        fuzzed = [Fuzzed(await door.dial(version)) for version in VERSIONS]
        listening = [asyncio.ensure_future(one.listen()) for one in fuzzed]
        for number, one in enumerate(fuzzed):
            one.client.raw(greeting(one.client.version, number, clean=len(talk) % 2 == 0, expiry=60, window=2))
        for number, data in talk:
            fuzzed[number].client.raw(data)
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            witness = await door.connect("witness")
            await witness.ping()
        for client in [witness, *(one.client for one in fuzzed)]:
            await client.lost()
            door.clients.remove(client)
        await asyncio.gather(*listening, return_exceptions=True)
        for one in fuzzed:
            if one.client.version == V5:
                one.understand()

    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: faults.append(context))
        stack = AsyncExitStack()
        door = runner.run(stack.enter_async_context(open_door(tmp_path)))

        @given(st.lists(st.tuples(st.integers(0, len(VERSIONS) - 1), mutated()), min_size=1, max_size=10))
        def each(talk: list[tuple[int, bytes]]) -> None:
            runner.run(run(door, talk))

        try:
            each()
            runner.run(check_it_goes_on(door, faults, caplog))
        finally:
            runner.run(stack.aclose())
