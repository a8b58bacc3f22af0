"""The bench on the real daemon and the prototype, with a handful of messages: does it still measure?"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import uvloop

from tests.bench import drive, prototype_mqtt
from tests.bench.load import Load, Rates, Target
from tests.bench.peers.mosquitto import Subscriber
from tests.bench.plan import Plan
from tests.bench.postroom import Postroom, memory, native_port, served
from tests.bench.prototype import Prototype
from tests.bench.scenarios import mqtt
from tests.bench.scenarios.latency import PacedPublisher


@pytest.mark.system
@pytest.mark.parametrize(
    ("target", "load"),
    [
        (Prototype(), Load(count=500, window=64)),
        (Prototype(fsync_delay=0.001), Load(count=50, window=25)),
        (Postroom(), Load(count=500, window=64)),
        (Postroom(), Load(count=500, window=64, topics=100, ids="some-")),
    ],
    ids=["prototype", "prototype, slow disk", "postroom", "postroom, topics and ids"],
)
def test_a_load_makes_its_whole_way(target: Target, load: Load, tmp_path: Path) -> None:
    rates: Rates = uvloop.run(target.measure(load, tmp_path))
    values = rates.values()
    assert values["rate"] == min(values["confirmed"], values["acked"]) > 0


@pytest.mark.system
@pytest.mark.parametrize("subscriber", [Subscriber, mqtt.KeptSubscriber])
@pytest.mark.parametrize("ports", [mqtt.daemon, prototype_mqtt.served], ids=["postroom", "prototype"])
def test_a_load_of_mqtt_makes_its_whole_way(
    ports: mqtt.Ports, subscriber: Callable[[Load], Subscriber], tmp_path: Path
) -> None:
    values = uvloop.run(mqtt.round_trip(ports, Load(count=500, window=64), subscriber, tmp_path))
    assert values["rate"] == min(values["confirmed"], values["acked"]) > 0


@pytest.mark.system
def test_what_waits_is_drained_to_the_last(tmp_path: Path) -> None:
    async def fill_and_drain(port: int) -> int:
        owner = await drive.connect(port, drive.Wire)
        await owner.put_queues([("wanted", "wanted/#"), ("idle", "other/#")])
        await drive.publish(port, 300, 100, "wanted/a")
        await drive.drain(port, 300, "wanted", 32)
        info = await owner.request("subscription.get", {"name": "wanted"})
        owner.close()
        return int(info["acked"])

    with served(tmp_path) as daemon:
        assert uvloop.run(fill_and_drain(native_port(daemon))) == 300
        now, peak = memory(daemon)
        assert 10 < now <= peak < 1_000


@pytest.mark.system
def test_what_the_broker_refuses_ends_the_load_with_its_words(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, pytest.raises(RuntimeError, match="unknown_subscription"):
        uvloop.run(drive.drain(native_port(daemon), 1, "nobody", 1))


class Sink:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        """Nothing to close."""


async def test_a_publisher_never_has_more_than_its_window_in_flight() -> None:
    publisher = drive.Publisher(10, 4, 8, ["a"])
    publisher.connection_made(cast(asyncio.Transport, Sink()))
    publisher.start()
    assert publisher.sent == 4
    publisher.data_received(drive.frame(drive.CONFIRM, 1, [], []))
    assert publisher.sent == 5
    publisher.data_received(drive.frame(drive.CONFIRM, 5, [], []) + drive.frame(drive.CONFIRM, 9, [], []))
    assert (publisher.sent, publisher.done.done()) == (10, False)
    publisher.data_received(drive.frame(drive.CONFIRM, 10, [], []))
    assert publisher.done.done()


async def test_frames_may_come_in_any_pieces() -> None:
    consumer = drive.Consumer(3, "q", 10)
    sink = Sink()
    consumer.connection_made(cast(asyncio.Transport, sink))
    sink.written = b""
    rows = [(offset, "a", 0, None, b"x" * 9) for offset in (7, 8, 9)]
    data = drive.frame(drive.DELIVER, 1, 0, rows[:1]) + drive.frame(drive.DELIVER, 1, 0, rows[1:])
    for at in range(len(data)):
        consumer.data_received(data[at : at + 1])
    assert sink.written == b"".join(
        drive.frame(drive.SETTLE, 1, "ack", offsets) + drive.frame(drive.CREDIT, 1, len(offsets))
        for offsets in ([7], [8, 9])
    )
    assert consumer.done.done()


async def test_a_paced_publisher_gives_every_message_one_latency() -> None:
    publisher = PacedPublisher(3, 1e12, 16, "a")  # all are due at the first look
    publisher.connection_made(cast(asyncio.Transport, Sink()))
    publisher.start()
    assert publisher.sent == 3
    publisher.data_received(drive.frame(drive.CONFIRM, 1, [], []))
    publisher.data_received(drive.frame(drive.CONFIRM, 3, [], []))
    assert len(publisher.latencies) == 3
    assert all(latency >= 0 for latency in publisher.latencies)


def test_every_scenario_has_steps_with_names_of_their_own() -> None:
    from tests.bench.__main__ import SCENARIOS

    for name, make in SCENARIOS.items():
        scenario = make(Plan(quick=True))
        keys = [step.key for step in scenario.steps]
        assert scenario.name == name
        assert len(set(keys)) == len(keys) > 0
