"""Clients of others at the MQTT door of a real daemon: a table of clients by what devices do."""

import queue
from base64 import b64decode
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.authority import Authority
from tests.system.door import ask, publish
from tests.system.mqtt_clients.aiomqtt import Aiomqtt
from tests.system.mqtt_clients.client import Client, RefusedError, Wish
from tests.system.mqtt_clients.faststream import FastStream
from tests.system.mqtt_clients.gmqtt import Gmqtt
from tests.system.mqtt_clients.mosquitto import Mosquitto
from tests.system.mqtt_clients.mqttjs import MqttJs, MqttJsOverWebSocket
from tests.system.mqtt_clients.paho import Paho, PahoOverWebSocket
from tests.system.mqtt_clients.wire import Wire
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system

CLIENTS: tuple[type[Client], ...] = (
    Mosquitto,
    Paho,
    PahoOverWebSocket,
    Aiomqtt,
    Gmqtt,
    MqttJs,
    MqttJsOverWebSocket,
    FastStream,
)
VERSIONS = {4: "3.1.1", 5: "5.0"}
Kind = tuple[type[Client], int]
_numbers = count(1)


def _kinds() -> Iterator[object]:
    for client in CLIENTS:
        marks = pytest.mark.skipif(bool(client.missing), reason=client.missing)
        for version, name in VERSIONS.items():
            yield pytest.param((client, version), id=f"{client.__name__}-{name}", marks=marks)


@pytest.fixture(params=_kinds())
def kind(request: pytest.FixtureRequest) -> Kind:
    """A row of the table."""
    found: Kind = request.param
    return found


@pytest.fixture
def name() -> str:
    """Of topics and clients that no other test uses: they share a daemon."""
    return f"test-{next(_numbers)}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("open")) as process:
        yield process.ready()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A daemon that wants to know who comes, with user `ann`; and a token of hers."""
    folder = tmp_path_factory.mktemp("guarded")
    with Served(folder, "[auth]\n") as process:
        process.ready()
        admin = {"Authorization": f"Bearer {(folder / 'data' / 'admin.token').read_text().strip()}"}
        admin["Content-Type"] = "application/json"
        ann = "/v1/principals/ann"
        assert ask(process, "PUT", f"{ann}/password", b'{"password": "correct horse"}', admin)[0] < 300
        for verb in ("publish", "consume"):
            assert ask(process, "POST", f"{ann}/grants", f'{{"grant": "{verb} #"}}'.encode(), admin)[0] < 300
        yield process, ask(process, "POST", f"{ann}/tokens", b"{}", admin)[1]["token"]


def port_of(served: Served, kind: Kind) -> int:
    return int(served.address(kind[0].door).rpartition(":")[2])


def client(kind: Kind, port: int, client_id: str, *filters: tuple[str, int], **wish: object) -> Client:
    made, version = kind
    return made(Wish(port, client_id, version, filters=filters, **wish))  # type: ignore[arg-type]


# The table's columns


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_every_qos(served: Served, kind: Kind, name: str, qos: int) -> None:
    port = port_of(served, kind)
    async with client(kind, port, f"{name}-r", (f"{name}/#", qos)) as reader, client(kind, port, f"{name}-w") as writer:
        await writer.publish(f"{name}/a", "hello", qos)
        assert await reader.hears() == [(f"{name}/a", "hello", qos, False)]


async def test_retained(served: Served, kind: Kind, name: str) -> None:
    port = port_of(served, kind)
    async with client(kind, port, f"{name}-w") as writer:
        await writer.publish(f"{name}/kept", "first", 1, retain=True)
        await writer.publish(f"{name}/kept", "kept", 1, retain=True)
        async with client(kind, port, f"{name}-r", (f"{name}/+", 1)) as reader:
            assert await reader.hears() == [(f"{name}/kept", "kept", 1, True)]
            await writer.publish(f"{name}/live", "live", 1)
            assert await reader.hears() == [(f"{name}/live", "live", 1, False)]


async def test_will(served: Served, kind: Kind, name: str) -> None:
    port = port_of(served, kind)
    will = (f"{name}/lost", "bye")
    async with (
        client(kind, port, f"{name}-r", (f"{name}/+", 1)) as watcher,
        Wire(port) as wire,
        client(kind, wire.port, f"{name}-w", will=will),
    ):
        wire.cut()
        assert await watcher.hears() == [(*will, 1, False)]


async def test_a_session_goes_on(served: Served, kind: Kind, name: str) -> None:
    port = port_of(served, kind)
    filters = ((f"{name}/#", 2),)
    async with client(kind, port, f"{name}-w") as writer:
        async with Wire(port) as wire, client(kind, wire.port, name, *filters, kept=True):
            wire.cut()
        for qos in (1, 2):
            await writer.publish(f"{name}/{qos}", "while away", qos)
        async with client(kind, port, name, *filters, kept=True) as reader:
            assert await reader.hears(2) == [(f"{name}/{qos}", "while away", qos, False) for qos in (1, 2)]
            await writer.publish(f"{name}/back", "back", 2)
            assert await reader.hears() == [(f"{name}/back", "back", 2, False)]


async def test_a_shared_subscription(served: Served, kind: Kind, name: str) -> None:
    port = port_of(served, kind)
    group = (f"$share/{name}/{name}/jobs", 1)
    async with (
        client(kind, port, f"{name}-1", group) as first,
        client(kind, port, f"{name}-2", group) as second,
        client(kind, port, f"{name}-w") as writer,
    ):
        for i in range(10):
            await writer.publish(f"{name}/jobs", str(i), 1)
        shares = [await first.hears(5), await second.hears(5)]
        assert sorted(int(heard.payload) for share in shares for heard in share) == list(range(10))


async def test_password_and_token(guarded: tuple[Served, str], kind: Kind, name: str) -> None:
    served, token = guarded
    port = port_of(served, kind)
    reader = client(kind, port, f"{name}-r", (name, 1), username="ann", password="correct horse")
    writer = client(kind, port, f"{name}-w", username="whoever", password=token)
    async with reader, writer:
        await writer.publish(name, "proven", 1)
        assert (await reader.hears())[0].payload == "proven"
    for wrong in ({"username": "ann", "password": "wrong horse"}, {}):
        stranger = client(kind, port, f"{name}-s", (name, 1), **wrong)
        with pytest.raises(RefusedError):
            await stranger.__aenter__()


# Other doors, and other ways in


async def test_what_devices_say_is_for_all_doors_and_the_other_way_round(served: Served, name: str) -> None:
    device = (Paho, 5)
    port = port_of(served, device)
    async with client(device, port, name, (f"{name}/2", 1)) as reader:
        await reader.publish(f"{name}/1", "from a device", 1)
        (found,) = ask(served, "GET", f"/v1/topics/{name}/1/messages?from=earliest")[1]["messages"]
        assert b64decode(found["body_base64"]) == b"from a device"
        assert publish(served, f"{name}/2", b"from a service")[0] == 201
        assert (await reader.hears())[0].payload == "from a service"


def _heard(client: paho.Client, *where: object) -> bytes:
    """What a client that subscribes and publishes hears."""
    got: queue.Queue[bytes] = queue.Queue()
    client.on_connect = lambda c, *_: c.subscribe("w", 1)
    client.on_subscribe = lambda c, *_: c.publish("w", "hello", 1)
    client.on_message = lambda _c, _u, message: got.put(bytes(message.payload))
    client.connect(*where)  # type: ignore[arg-type]
    client.loop_start()
    try:
        return got.get(timeout=WITHIN)
    finally:
        client.disconnect()
        client.loop_stop()


def test_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("localhost", "127.0.0.1")
    config = f'[mqtt.tls]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
    with Served(tmp_path, config) as served:
        served.ready()
        assert any(line.startswith("postroom: mqtt listening on mqtts://") for line in served.out)
        client = paho.Client(CallbackAPIVersion.VERSION2, "secure")
        client.tls_set(str(authority.path))
        assert _heard(client, "localhost", port_of(served, (Paho, 4)), 30) == b"hello"


def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "mqtt"
    with Served(tmp_path, f'[mqtt]\ntcp = false\nunix = "{path}"\n') as served:
        served.ready()
        client = paho.Client(CallbackAPIVersion.VERSION2, "near", transport="unix")
        assert _heard(client, str(path)) == b"hello"
