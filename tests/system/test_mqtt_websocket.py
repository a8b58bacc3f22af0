"""MQTT over WebSocket at the HTTP port of a real daemon, by paho: in the clear and by TLS, kicked, and over a kill."""

import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from tests.authority import Authority
from tests.system.door import ask
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system


class Web:
    """A client of paho's that is connected."""

    def __init__(self, client: paho.Client) -> None:
        self.client = client
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        client.on_message = lambda _, __, message: self.messages.put(message)
        client.on_subscribe = lambda *given: self.events.put(("suback", given[3]))

    def subscribe(self, topics: str, qos: int) -> None:
        self.client.subscribe(topics, qos)
        assert self.events.get(timeout=WITHIN)[0] == "suback"

    def publish(self, topic: str, body: bytes, qos: int) -> None:
        self.client.publish(topic, body, qos).wait_for_publish(WITHIN)

    def bodies(self, count: int) -> list[bytes]:
        return [bytes(self.messages.get(timeout=WITHIN).payload) for _ in range(count)]


@contextmanager
def web(
    served: Served,
    name: str,
    version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
    *,
    tls: Any = None,
    clean_session: bool | None = None,
) -> Iterator[Web]:
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        name,
        clean_session=clean_session,
        transport="websockets",
        protocol=version,
        reconnect_on_failure=False,
    )
    client.ws_set_options("/mqtt")
    if tls is not None:
        client.tls_set_context(tls)
    made = Web(client)
    client.on_connect = lambda _, __, flags, reason, ___: made.events.put(("connack", (flags.session_present, reason)))
    client.on_disconnect = lambda _, __, ___, reason, ____: made.events.put(("end", reason))
    host, _, port = served.address("http").partition(":")
    client.connect(host, int(port), clean_start=True if version is MQTTProtocolVersion.MQTTv5 else 3)
    client.loop_start()
    try:
        kind, (_, reason) = made.events.get(timeout=WITHIN)
        assert (kind, reason.value) == ("connack", 0)
        yield made
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as process:
        yield process.ready()


@pytest.mark.parametrize("version", list(MQTTProtocolVersion))
def test_paho_at_every_qos(served: Served, version: MQTTProtocolVersion) -> None:
    with web(served, "c", version) as client:
        client.subscribe("w/#", 2)
        sent = [b"", b"x" * 200, b"y" * 100_000]
        for qos, body in enumerate(sent):
            client.publish(f"w/{qos}", body, qos)
        assert client.bodies(3) == sent
        assert {c["client"]: c["door"] for c in ask(served, "GET", "/v1/connections")[1]["connections"]}["c"] == "mqtt"


def test_a_kicked_client_reads_why(served: Served) -> None:
    with web(served, "c", MQTTProtocolVersion.MQTTv5) as client:
        (one,) = [c for c in ask(served, "GET", "/v1/connections")[1]["connections"] if c["door"] == "mqtt"]
        assert ask(served, "DELETE", f"/v1/connections/{one['id']}")[0] == 204
        kind, reason = client.events.get(timeout=WITHIN)
        assert (kind, reason.getName()) == ("end", "Administrative action")


def test_a_stop_ends_it_with_the_reason(served: Served) -> None:
    with web(served, "c", MQTTProtocolVersion.MQTTv5) as client:
        served.signal(signal.SIGTERM)
        kind, reason = client.events.get(timeout=WITHIN)
        assert (kind, reason.getName()) == ("end", "Server shutting down")
    assert served.ended() == 0
    assert served.errors() == []


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.ready()
        with web(served, "kept", clean_session=False) as reader:
            reader.subscribe("w/#", 1)
        with web(served, "writer") as writer:
            for i in range(200):
                writer.publish("w/a", b"%d" % i, 1 + i % 2)
            served.signal(signal.SIGKILL)
            assert writer.events.get(timeout=WITHIN)[0] == "end"
    with Served(tmp_path) as served, web(served.ready(), "kept", clean_session=False) as reader:
        assert reader.bodies(200) == [b"%d" % i for i in range(200)]


def test_by_tls_with_a_certificate_that_says_who_it_is(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair, own = authority.issue("127.0.0.1"), authority.issue("spiffe://example.com/meter", file="meter")
    config = f"""
[auth]
certificates = {{ "URI:spiffe://example.com/meter" = "meter" }}

[tls]
certificate = "{pair.certificate}"
key = "{pair.key}"
client_certificates = "optional"
client_ca = "{authority.path}"
"""
    with Served(tmp_path, config) as served:
        served.ready()
        with web(served, "c", tls=authority.trusted(own)) as client:
            client.client.publish("not/granted", b"x", 1)
            kind, _ = client.events.get(timeout=WITHIN)
            assert kind == "end"  # 3.1.1 has no other word for it
        served.until(lambda: any('"client":"c"' in line and '"principal":"meter"' in line for line in served.log))
        stranger = paho.Client(CallbackAPIVersion.VERSION2, "s", transport="websockets", reconnect_on_failure=False)
        stranger.ws_set_options("/mqtt")
        stranger.tls_set_context(authority.trusted())
        answers: queue.Queue[ReasonCode] = queue.Queue()
        stranger.on_connect = lambda _, __, ___, reason, ____: answers.put(reason)
        stranger.connect("127.0.0.1", int(served.address("http").rpartition(":")[2]))
        stranger.loop_start()
        assert answers.get(timeout=WITHIN).is_failure
        stranger.loop_stop()


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    with Served(tmp_path, "[mqtt]\nwebsocket = false\n") as served:
        assert ask(served.ready(), "GET", "/mqtt")[0] == 404
