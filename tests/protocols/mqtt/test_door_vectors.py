"""The packet vectors against the running door: each ends as it should, and what is expected in between comes.

Scored leniently where the standard leaves a choice: properties, the reason of DISCONNECT, the order of a PUBACK and of
the message that comes back; a bare close instead of an error CONNACK or DISCONNECT.
"""

import asyncio
from pathlib import Path

from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import V5, Connack, Connect, Pingreq, Pingresp
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.mqtt.door import Client, Door, open_door
from tests.protocols.mqtt.exceptions import MANY, UNCLOSED
from tests.protocols.mqtt.vectors import Vector, load, needed

DIFFERS = {key for key, reason in UNCLOSED.items() if reason == MANY}
"""(file, version, name) of those that need not end as they say."""


async def fault(door: Door, helper: Client, vector: Vector) -> str:
    """What is wrong with how the door takes it; nothing is ''."""
    client = await door.dial(vector.version)
    try:
        async with asyncio.timeout(2):
            return await _fault(client, helper, vector)
    except TimeoutError:
        return "it stays open" if vector.closes else "there is no answer"
    except (ConnectionError, AssertionError, MqttError) as error:
        return "" if vector.closes else str(error)
    finally:
        await client.lost()
        door.clients.remove(client)


async def _fault(client: Client, helper: Client, vector: Vector) -> str:
    if vector.connects:
        client.write(Connect(vector.version, "vector", keep_alive=60))
        await client.hear(Connack)
    for at, (direction, data) in enumerate(vector.steps):
        for _, topic, payload, qos in (entry for entry in vector.others if entry[0] == at):
            await helper.publish(topic, payload.decode(), qos)
        if direction == "send":
            client.raw(data)
        elif not (vector.closes and data[0] & 0xF0 in (0x20, 0xE0)):  # a bare close will do
            await _expect(client, data[0] & 0xF0)
    if vector.closes:
        await client.closed()
        return ""
    client.write(Pingreq())
    await client.hear(Pingresp)
    return ""


async def _expect(client: Client, kind: int) -> None:
    """A packet of this kind, in whichever place."""
    while True:
        for i, packet in enumerate(client.heard):
            if encode(packet, V5)[0] & 0xF0 == kind:
                del client.heard[i]
                return
        assert not client.ended, "it closed instead of an answer"
        await client._more()


@needed
async def test_the_door_takes_them_as_they_say(tmp_path: Path) -> None:
    vectors = load()
    wrong: dict[str, str] = {}
    async with open_door(tmp_path, MqttOptions(topic_alias_maximum=10, receive_maximum=20)) as door:
        helper = await door.connect("helper")
        for vector in vectors:
            if said := await fault(door, helper, vector):
                wrong[f"{vector} of version {vector.version}"] = said
        for file, version, name in DIFFERS:
            wrong = {text: said for text, said in wrong.items() if not _is(text, file, version, name)}
    assert len(vectors) == 1_826
    assert wrong == {}, "\n".join(f"{name}: {what}" for name, what in sorted(wrong.items()))


def _is(text: str, file: str, version: int, name: str) -> bool:
    return text.startswith(f"{file}/") and text.endswith(f"/{name} of version {version}")
