"""Clients of others at the MQTT door of a real daemon: mosquitto_pub and mosquitto_sub, paho, aiomqtt."""

import asyncio
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.authority import Authority
from tests.system.door import bodies, publish
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system
mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_sub") is None, reason="mosquitto_pub and mosquitto_sub are missing (mosquitto-clients)"
)
VERSIONS = ("mqttv311", "mqttv5")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as process:
        yield process.ready()


def port_of(served: Served) -> int:
    return int(served.address("mqtt").rpartition(":")[2])


# mosquitto_pub, mosquitto_sub


class Sub:
    """mosquitto_sub that has subscribed."""

    def __init__(self, served: Served, *arguments: str) -> None:
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-d", "-v", "-p", str(port_of(served)), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        early: list[str] = []  # of a session that goes on
        while not (line := self.lines.get(timeout=WITHIN)).startswith("Subscribed"):
            early.append(line)
        for line in early:
            self.lines.put(line)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                self.lines.put(line.rstrip("\n"))

    def messages(self, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            line = self.lines.get(timeout=WITHIN)
            if not line.startswith("Client ") and line:
                found.append(line)
        return found

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(WITHIN)
        self._reader.join(WITHIN)


def pub(served: Served, *arguments: str) -> None:
    subprocess.run(["mosquitto_pub", "-p", str(port_of(served)), *arguments], check=True, timeout=WITHIN)


@mosquitto
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_mosquitto_publishes_and_subscribes(served: Served, version: str, qos: str) -> None:
    sub = Sub(served, "-V", version, "-t", "m/#", "-q", qos)
    pub(served, "-V", version, "-t", "m/a", "-q", qos, "-m", "hello")
    assert sub.messages(1) == ["m/a hello"]
    sub.end()


@mosquitto
@pytest.mark.parametrize("version", VERSIONS)
def test_mosquitto_retained_will_and_resumed_session(served: Served, version: str) -> None:
    pub(served, "-V", version, "-t", "m/kept", "-q", "1", "-m", "kept", "-r")
    kept = ["-i", "kept", "-c", "-q", "1", "-V", version]
    if version == "mqttv5":
        kept += ["-x", "600"]
    sub = Sub(served, *kept, "-t", "m/#", "--will-topic", "w/gone", "--will-payload", "bye")
    assert sub.messages(1) == ["m/kept kept"]
    watcher = Sub(served, "-t", "w/#")
    sub.process.kill()
    sub.end()
    assert watcher.messages(1) == ["w/gone bye"]
    watcher.end()
    pub(served, "-V", version, "-t", "m/later", "-q", "1", "-m", "later")
    sub = Sub(served, *kept, "-t", "m/other")
    assert sub.messages(1) == ["m/later later"]
    sub.end()


@mosquitto
def test_mosquitto_shares(served: Served) -> None:
    subs = [Sub(served, "-V", "mqttv5", "-t", "$share/g/jobs", "-q", "1") for _ in range(2)]
    for i in range(10):
        pub(served, "-t", "jobs", "-q", "1", "-m", str(i))
    found: list[str] = []
    while len(found) < 10:
        for sub in subs:
            if not sub.lines.empty():
                found += [line for line in [sub.lines.get()] if line.startswith("jobs ")]
    assert sorted(found) == [f"jobs {i}" for i in range(10)]
    for sub in subs:
        sub.end()


@mosquitto
def test_what_devices_say_is_for_all_doors_and_the_other_way_round(served: Served) -> None:
    pub(
        served,
        "-V",
        "mqttv5",
        "-D",
        "publish",
        "content-type",
        "text/plain",
        "-t",
        "d/1",
        "-q",
        "1",
        "-m",
        "from a device",
    )
    assert bodies(served, "d/1") == ["from a device"]
    sub = Sub(served, "-t", "d/#", "-q", "1")
    assert publish(served, "d/2", b"from a service")[0] == 201
    assert sub.messages(1) == ["d/2 from a service"]
    sub.end()


# paho


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def test_paho_at_every_qos_with_a_session_that_goes_on(served: Served, version: MQTTProtocolVersion) -> None:
    five = version is MQTTProtocolVersion.MQTTv5
    got: queue.Queue[paho.MQTTMessage] = queue.Queue()

    def client(name: str, *, kept: bool) -> tuple[paho.Client, bool]:
        present: queue.Queue[bool] = queue.Queue()
        options = {} if five else {"clean_session": not kept}
        made = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=version, **options)  # type: ignore[arg-type]
        made.on_connect = lambda _c, _u, flags, _r, _p: present.put(flags.session_present)
        made.on_message = lambda _c, _u, message: got.put(message)
        properties = None
        if five:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 600 if kept else 0
        made.connect("127.0.0.1", port_of(served), 30, clean_start=not kept if five else 3, properties=properties)
        made.loop_start()
        return made, present.get(timeout=WITHIN)

    reader, present = client("reader", kept=True)
    assert not present
    subscribed = threading.Event()
    reader.on_subscribe = lambda *_: subscribed.set()
    reader.subscribe("p/#", 2)
    assert subscribed.wait(WITHIN)
    writer, _ = client("writer", kept=False)
    for qos in (0, 1, 2):
        writer.publish("p/a", f"qos {qos}", qos).wait_for_publish(WITHIN)
    messages = sorted((got.get(timeout=WITHIN) for _ in range(3)), key=lambda message: message.qos)
    assert [(m.payload, m.qos) for m in messages] == [(f"qos {qos}".encode(), qos) for qos in (0, 1, 2)]
    reader.disconnect()
    reader.loop_stop()
    writer.publish("p/b", "while away", 2).wait_for_publish(WITHIN)
    reader, present = client("reader", kept=True)
    assert present
    assert got.get(timeout=WITHIN).payload == b"while away"
    for ended in (reader, writer):
        ended.disconnect()
        ended.loop_stop()


# aiomqtt


@pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
async def test_aiomqtt_retained_and_live_messages(served: Served, version: aiomqtt.ProtocolVersion) -> None:
    port = port_of(served)
    async with (
        asyncio.timeout(WITHIN),
        aiomqtt.Client("127.0.0.1", port, protocol=version, identifier="reader") as reader,
        aiomqtt.Client("127.0.0.1", port, protocol=version, identifier="writer") as writer,
    ):
        await writer.publish("x/kept", "kept", 1, retain=True)
        await reader.subscribe("x/#", 2)
        await writer.publish("x/live", "live", 2)
        found = []
        async for message in reader.messages:
            found.append((str(message.topic), message.payload, message.retain))
            if len(found) == 2:
                break
    assert found == [("x/kept", b"kept", True), ("x/live", b"live", False)]


# Other ways in


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
        assert _heard(client, "localhost", port_of(served), 30) == b"hello"


def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "mqtt"
    with Served(tmp_path, f'[mqtt]\ntcp = false\nunix = "{path}"\n') as served:
        served.ready()
        client = paho.Client(CallbackAPIVersion.VERSION2, "near", transport="unix")
        assert _heard(client, str(path)) == b"hello"
