"""What operators see of MQTT's clients and retained messages, and do to them, by the HTTP of a real daemon."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.auth.principal import LOCAL
from broker.config import Config
from broker.core.position import EARLIEST
from broker.daemon import Daemon
from broker.hub import Outgoing
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import V5, V311, Connack, Connect, Disconnect, Publish, Will
from tests.protocols.mqtt.door import Client, dial
from tests.system.waiting import until


class World:
    def __init__(self, daemon: Daemon, http: aiohttp.ClientSession) -> None:
        self.daemon = daemon
        self.http = http
        self.clients: list[Client] = []

    async def connect(self, name: str, version: int = V5, expiry: int = 0, **options: Any) -> Client:
        client = await dial(int(self.daemon.addresses["mqtt"][0].rpartition(":")[2]), version)
        self.clients.append(client)
        properties: Any = {"session_expiry": expiry} if version == V5 else {}
        client.write(Connect(version, name, properties=properties, **options))
        assert (await client.hear(Connack)).reason is Reason.SUCCESS
        return client

    async def __call__(self, method: str, path: str, status: int = 200, **query: Any) -> Any:
        async with self.http.request(method, f"{self.daemon.addresses['http'][0]}/v1{path}", params=query) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return json.loads(text) if text else None

    async def clients_of(self, **query: Any) -> list[str]:
        return [client["client"] for client in (await self("GET", "/mqtt/clients", **query))["clients"]]

    async def audit(self) -> list[Any]:
        await self.daemon.hub.publish(LOCAL, [Outgoing("behind/them", b"")])
        page = await self.daemon.hub.read(LOCAL, ["$sys/audit"], EARLIEST, 100)
        return [json.loads(row[4]) for row in page.rows]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    doors: dict[str, Any] = {"native": {"port": 0}, "http": {"port": 0}, "mqtt": {"port": 0}, "grace": 0}
    daemon = Daemon(Config.model_validate({**doors, "data_dir": tmp_path / "data"}), environ={}, say=lambda _: None)
    await daemon.start()
    async with aiohttp.ClientSession() as session:
        world = World(daemon, session)
        yield world
        for client in world.clients:
            await client.lost()
    await daemon.stop()


async def test_a_client_that_is_connected(world: World) -> None:
    client = await world.connect("oven/7 é", V311, keep_alive=60)
    await client.subscribe("plant/#", qos=2)
    await client.subscribe("$share/g/jobs", qos=1)
    assert await client.publish("$nobody/s", "x", qos=1) is Reason.SUCCESS
    shown = await world("GET", "/mqtt/clients/oven%2F7%20%C3%A9")
    assert shown["last_error"].pop("at") >= shown.pop("connected_since") > "2020"
    assert shown["last_error"].pop("detail")
    assert shown.pop("port") > 0
    assert shown.pop("connection") in [c["id"] for c in (await world("GET", "/connections"))["connections"]]
    assert shown == {
        "client": "oven/7 é",
        "principal": "local",
        "state": "connected",
        "address": "127.0.0.1",
        "version": "3.1.1",
        "keep_alive_seconds": 60,
        "slow": False,
        "kept": False,
        "expiry_seconds": 0,
        "away_since": None,
        "expires_at": None,
        "subscriptions": [{"filter": "plant/#", "qos": 2}, {"filter": "$share/g/jobs", "qos": 1}],
        "groups": [{"filter": "$share/g/jobs", "queued": 0, "queued_bytes": 0}],
        "filters": 2,
        "queued": 0,
        "queued_bytes": 0,
        "in_flight_out": 0,
        "in_flight_in": 0,
        "dropped": 0,
        "last_error": {"code": "forbidden"},
    }


async def test_a_client_that_is_away(world: World) -> None:
    client = await world.connect("away", expiry=60)
    await client.subscribe("plant/#")
    await client.lost()
    writer = await world.connect("writer")
    for _ in range(3):
        await writer.publish("plant/oven", "12345")
    await world.connect("away2", expiry=60)
    shown = await world("GET", "/mqtt/clients/away")
    assert (shown["state"], shown["kept"], shown["expiry_seconds"]) == ("away", True, 60)
    assert (shown["queued"], shown["queued_bytes"], shown["address"], shown["version"]) == (3, 15, None, None)
    assert shown["away_since"] < shown["expires_at"]
    client = await world.connect("away", expiry=60, clean_start=False)
    first = await client.take()
    assert first.payload == b"12345"


async def test_lists_are_cut_and_chosen_from(world: World) -> None:
    for name in ("b2", "a1", "b1", "a2"):
        await world.connect(name, expiry=60 if name == "a2" else 0)
    await world.clients[-1].lost()
    first = await world("GET", "/mqtt/clients", limit=3)
    assert ([client["client"] for client in first["clients"]], first["next"]) == (["a1", "a2", "b1"], "b1")
    assert await world.clients_of(after="b1") == ["b2"]
    assert await world.clients_of(prefix="b") == ["b1", "b2"]
    assert await world.clients_of(state="away") == ["a2"]
    assert await world.clients_of(state="connected") == ["a1", "b1", "b2"]
    assert await world.clients_of(principal="ann") == []
    assert await world.clients_of(principal="local", slow="false", prefix="a") == ["a1", "a2"]
    assert await world.clients_of(slow="true") == []
    assert (await world("GET", "/mqtt/clients", 400, state="gone"))["code"] == "bad_option"
    assert (await world("GET", "/mqtt/clients/none", 404))["code"] == "not_found"
    assert (await world("GET", "/status"))["mqtt"] | {"connections": 0, "wills": 0} == {
        "connections": 0,
        "sessions": 4,
        "away": 1,
        "slow": 0,
        "queued_bytes": 0,
        "shared_subscriptions": 0,
        "retained": 0,
        "retained_bytes": 0,
        "wills": 0,
    }


async def test_who_is_sent_away_hears_why_and_may_come_again(world: World) -> None:
    watcher = await world.connect("watcher")
    await watcher.subscribe("last/words")
    client = await world.connect("c", expiry=60, will=Will("last/words", b"bye"))
    await client.subscribe("plant/#")
    await world("DELETE", "/mqtt/clients/c", 204)
    goodbye = await client.hear(Disconnect)
    assert goodbye.reason is Reason.ADMINISTRATIVE_ACTION
    assert "operator" in goodbye.properties["reason_string"]
    assert (await watcher.take()).payload == b"bye"
    shown = await world("GET", "/mqtt/clients/c")
    assert (shown["state"], shown["last_error"]["code"]) == ("away", "dismissed")
    assert "forget" in (await world("DELETE", "/mqtt/clients/c", 404))["detail"]
    client = await world.connect("c", expiry=60, clean_start=False)
    assert (await world("GET", "/mqtt/clients/c"))["filters"] == 1


@pytest.mark.parametrize("away", [False, True])
async def test_a_session_that_is_forgotten_is_gone_with_what_waits_for_it(world: World, away: bool) -> None:
    client = await world.connect("c", expiry=60)
    await client.subscribe("plant/#", "$share/g/jobs")
    if away:
        await client.lost()
        await (await world.connect("w")).publish("plant/oven")
    await world("DELETE", "/mqtt/clients/c", 204, forget="true")
    if not away:
        assert (await client.hear(Disconnect)).reason is Reason.ADMINISTRATIVE_ACTION
    await world("GET", "/mqtt/clients/c", 404)
    await world("DELETE", "/mqtt/clients/c", 404, forget="true")
    assert (await world("GET", "/subscriptions"))["subscriptions"] == []
    entries = [(entry["verb"], entry["resource"], entry["outcome"]) for entry in await world.audit()]
    assert ("mqtt.forget", "c", "done") in entries
    assert ("mqtt.forget", "c", "not_found") in entries


async def test_retained_messages_are_listed_and_deleted(world: World) -> None:
    writer = await world.connect("w")
    for topic in ("plant/b", "plant/a", "other", "room 1/"):
        await writer.publish(topic, topic, retain=True)
    await writer.publish("plant/c", "12", retain=True, properties={"message_expiry": 60})
    page = await world("GET", "/mqtt/retained", filter="plant/**", limit=2)
    assert [each["topic"] for each in page["retained"]] == ["plant/a", "plant/b"]
    (last,) = (await world("GET", "/mqtt/retained", filter="plant/**", after=page["next"]))["retained"]
    assert (last["topic"], last["size"], last["principal"]) == ("plant/c", 2, "local")
    assert last["published_at"] < last["expires_at"]
    assert (await world("GET", "/mqtt/retained", 400, filter="a#"))["code"] == "bad_filter"
    assert await world("DELETE", "/mqtt/retained", filter="plant/**") == {"deleted": 3}
    assert await world("DELETE", "/mqtt/retained/room%201%2F") == {"deleted": 1}
    assert await world("DELETE", "/mqtt/retained/other") == {"deleted": 1}
    assert await world("DELETE", "/mqtt/retained/other") == {"deleted": 0}
    await writer.subscribe("#")
    await writer.nothing()
    assert len(await world.daemon.engine.keys("mqtt/retained/")) == 0
    counts = [entry["count"] for entry in await world.audit() if entry["verb"] == "mqtt.retained.delete"]
    assert counts == [3, 1, 1, 0]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.retained.SWEEP", 0.01)


async def test_what_is_retained_is_swept_when_it_has_expired(often: None, world: World) -> None:
    writer = await world.connect("w")
    await writer.publish("short", "x", retain=True, properties={"message_expiry": 1})
    await until(lambda: not world.daemon.hub.retained)
    assert await world.daemon.engine.keys("mqtt/retained/") == []


async def test_what_is_published_while_all_is_deleted_is_the_same_in_memory_and_on_disk(world: World) -> None:
    writer = await world.connect("w")
    for round_ in range(20):
        for i in range(50):
            writer.write(Publish(f"a/{i}", str(round_).encode(), retain=True))
        await world("DELETE", "/mqtt/retained", filter="**")
    await writer.publish("end")  # behind them all
    in_memory = sorted(world.daemon.hub.retained.matched("#"))
    assert await world.daemon.engine.keys("mqtt/retained/") == [f"mqtt/retained/{topic}" for topic in in_memory]
