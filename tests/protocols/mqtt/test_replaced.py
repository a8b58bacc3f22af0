"""A filter that a kept session subscribes to again with another QoS: no message is lost by that."""

import itertools

import pytest

from broker.core.subscription import Spec
from broker.protocols.mqtt.codec.packets import Publish
from tests.protocols.mqtt.door import Client, Door
from tests.protocols.mqtt.test_kept import kept


def meanwhile(door: Door, monkeypatch: pytest.MonkeyPatch, writer: Client) -> None:
    """Just before each change of the session's queue a message comes: `before 1`, `before 2`."""
    put, count = door.hub.put_own, itertools.count(1)

    async def put_own(spec: Spec) -> None:
        await writer.publish("a", f"before {next(count)}", 1)
        await put(spec)

    monkeypatch.setattr(door.hub, "put_own", put_own)


async def taken(client: Client, count: int) -> set[tuple[bytes, int]]:
    return {(packet.payload, packet.qos) for packet in [await client.take() for _ in range(count)]}


@pytest.mark.statement("MQTT-3.8.4-4")
async def test_from_0_to_1(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    client, writer = await kept(door), await door.connect("w")
    await client.subscribe("a", qos=0)
    meanwhile(door, monkeypatch, writer)
    await client.subscribe("a", qos=1)
    monkeypatch.undo()
    await writer.publish("a", "then", 1)
    assert await taken(client, 3) == {(b"before 1", 0), (b"before 2", 1), (b"then", 1)}
    await client.nothing()


@pytest.mark.statement("MQTT-3.8.4-4")
@pytest.mark.parametrize("how", ["stays", "lost", "crash"])
async def test_from_1_to_0(door: Door, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    client, writer = await kept(door, receive_maximum=1), await door.connect("w")
    await client.subscribe("a", qos=1)
    for body in ("1", "2", "3"):
        await writer.publish("a", body, 1)
    first = await client.hear(Publish)
    meanwhile(door, monkeypatch, writer)
    await client.subscribe("a", qos=0)
    monkeypatch.undo()
    await writer.publish("a", "then", 1)
    if how == "stays":
        await client.answer(first)
        assert await taken(client, 4) >= {(body, 0) for body in (b"2", b"3", b"before 1", b"then")}
        return
    await (client.lost() if how == "lost" else door.crash())
    client = await kept(door, present=True)
    again = await client.take()
    assert again.payload == b"1"
    if how == "lost":
        assert (again.dup, again.packet_id) == (True, first.packet_id)
    assert await taken(client, 3) == {(b"2", 0), (b"3", 0), (b"before 1", 0)}
    await client.nothing()
    await (await door.connect("w2")).publish("a", "live", 1)
    assert await taken(client, 1) == {(b"live", 0)}
