"""Packets of the vectors in any order, some of them broken or cut, over sessions that come and go: the door goes on."""

import asyncio
import logging
from pathlib import Path
from random import Random
from typing import Any

import pytest

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.packets import V5, Connect, Properties
from tests.protocols.mqtt.door import open_door
from tests.protocols.mqtt.vectors import load, needed

CONNECTIONS = 1_000


@needed
async def test_nothing_that_clients_send_stops_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random, faults = Random(7), list[dict[str, Any]]()
    sent = [data for vector in load() for direction, data in vector.steps if direction == "send"]
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with open_door(tmp_path) as door:
        for number in range(CONNECTIONS):
            version = random.choice((3, 4, 5))
            wishes: Properties = {"session_expiry": random.choice((0, 60)), "receive_maximum": random.randint(1, 5)}
            clean, name = random.random() < 0.5, f"c{random.randrange(6)}"
            greeting = Connect(version, name, clean, properties=wishes if version == V5 else {})
            client = await door.dial(version)
            client.raw(encode(greeting, version))
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
        await asyncio.sleep(0.2)
        last = await door.connect("last")
        assert await last.publish("still/here", "yes", 2) is Reason.SUCCESS
        assert len(door.server.connections) == 1
        assert len(door.server.sessions) <= 7
    assert not faults, faults[:3]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
