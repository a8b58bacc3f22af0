"""Clients that do not read: told, counted, and parked or let go, as the options say."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from broker.protocols.mqtt.codec.packets import V5, Connack, Connect
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.mqtt.door import Client, Door, open_door

BODY = "x" * 500_000


async def sleeper(door: Door, name: str) -> Client:
    """A subscriber with small buffers whose socket is not read from here on."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", door.port))
    client = Client(*await asyncio.open_connection(sock=sock, limit=4096), V5)
    door.clients.append(client)
    client.write(Connect(V5, name))
    await client.hear(Connack)
    await client.subscribe("a", qos=0)
    client._writer.transport.pause_reading()  # type: ignore[attr-defined]
    return client


async def told(watcher: Client) -> dict[str, object]:
    found: dict[str, object] = json.loads((await watcher.take()).payload)
    return found


async def until_full(door: Door, writer: Client, name: str) -> None:
    """Publish what is in no log until the client's socket takes no more."""
    for _ in range(200):
        await writer.publish("a", BODY, qos=0)
        await writer.ping()
        session = door.server.sessions.find(name)
        if session is None or session.sender is None or session.sender.full:
            return
    raise AssertionError("its socket takes everything")


@pytest.mark.parametrize("policy", ["park", "disconnect"])
async def test_who_does_not_read_is_told_counted_and_parked_or_let_go(tmp_path: Path, policy: str) -> None:
    options = MqttOptions(slow_after="100ms", slow_clients=policy)
    async with open_door(tmp_path, options) as door:
        watcher, writer = await door.connect("watcher"), await door.connect("writer")
        await watcher.subscribe("$SYS/broker/clients/slow")
        client = await sleeper(door, "sleeper")
        await until_full(door, writer, "sleeper")
        notice = await told(watcher)
        assert (notice["client"], notice["principal"], notice["let_go"]) == (
            "sleeper",
            "local",
            policy == "disconnect",
        )
        clients, status = door.server.clients, door.server.status()
        figures = {figure.name: figure for figure in door.server.figures()}
        assert next(iter(figures["mqtt_became_slow"].values.values())) == 1
        if policy == "disconnect":
            assert door.server.sessions.find("sleeper") is None
            assert status["slow"] == 0
            return
        assert status["slow"] == 1
        assert list(clients.names("", None, None, True)) == ["sleeper"]
        for _ in range(20):  # until its credit is used up too, and they pass it by
            await writer.publish("a", BODY, qos=0)
            await writer.ping()
        assert clients.show("sleeper", None)["slow"]
        assert clients.show("sleeper", None)["dropped"] > 0
        client._writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.ping()
        assert door.server.status()["slow"] == 0
        assert not clients.show("sleeper", None)["slow"]


async def test_who_is_let_go_is_told_how_to_be_kept(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(slow_after="100ms", slow_clients="disconnect")) as door:
        writer = await door.connect("writer")
        client = await sleeper(door, "sleeper")
        session = door.server.sessions.find("sleeper")
        assert session is not None
        await until_full(door, writer, "sleeper")
        watcher = await door.connect("watcher")
        await watcher.subscribe("$SYS/broker/clients/slow")
        assert (await told(watcher))["client"] == "sleeper"
        assert session.trouble is not None
        assert session.trouble.code == "slow_reader"
        assert "full for 100ms" in session.trouble.detail
        assert "mqtt.slow_after" in session.trouble.detail
        client._writer.transport.abort()


async def test_who_reads_again_in_time_is_not_slow(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(slow_after="1h")) as door:
        writer = await door.connect("writer")
        client = await sleeper(door, "sleeper")
        await until_full(door, writer, "sleeper")
        assert len(door.server.slow._full) == 1
        client._writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.ping()
        assert not len(door.server.slow._full)  # its time does not go on
        assert (door.server.status()["slow"], door.server.slow.times) == (0, 0)
