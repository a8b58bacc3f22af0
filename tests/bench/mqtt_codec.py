"""`python -m tests.bench.mqtt_codec`: packets per second of our MQTT codec beside `mqtt5` (Rust), in the same run.

QoS 1 PUBLISH of 256 bytes in MQTT 5, read in pieces of 64 KiB as from a socket. Rounds alternate and the best of each
counts; on a machine that others use, the ratios are worth more than the rates.
"""

import sys
import time
from collections.abc import Callable, Sequence
from struct import Struct

import mqtt5
from rich.console import Console
from rich.table import Table

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.fanout import Fanout
from broker.protocols.mqtt.codec.packets import V5, Ack, Properties, Publish

COUNT, READ, ROUNDS = 10_000, 65_536, 15
TOPIC, BODY = "sensors/7/temperature", b"x" * 256
PROPERTIES: Properties = {"content_type": "text/plain", "user": [("trace", "00-4bf92f3577b34da6-01")]}
IDS = range(1, COUNT + 1)
_id = Struct(">H").pack

Rival = tuple[str, Callable[[], object], Callable[[], object]]


def _decode(data: bytes) -> None:
    decoder = Decoder(version=V5)
    for at in range(0, len(data), READ):
        decoder.feed(data[at : at + READ])


def _their_decode(data: bytes) -> None:
    view = memoryview(data)
    at, found = 0, []
    while at < len(view):
        packet, size = mqtt5.read(view[at:])
        found.append(packet)
        at += size


def _reading(name: str, data: bytes) -> Rival:
    return name, lambda: _decode(data), lambda: _their_decode(data)


def rivals() -> list[Rival]:
    """What is measured: name, ours, theirs; each treats COUNT packets."""
    publishes = [Publish(TOPIC, BODY, 1, packet_id=i) for i in IDS]
    mixed = [Publish(f"sensors/{i % 50}/temperature", b"x" * (206 + i % 100), 1, packet_id=i) for i in IDS]
    carrying = [packet._replace(properties=PROPERTIES) for packet in publishes]
    return [
        _reading("decode, one publisher", _written(publishes)),
        _reading("decode, 50 topics and 100 sizes", _written(mixed)),
        _reading("decode, with two properties", _written(carrying)),
        ("make and encode", _encode, _their_encode),
        ("fan-out, each subscriber", _fan_out, _their_encode),
        _reading("decode PUBACK", encode(Ack(Kind.PUBACK, tuple(IDS)), V5)),
        ("make and encode PUBACK", lambda: encode(Ack(Kind.PUBACK, tuple(IDS)), V5), _their_acks),
    ]


def _encode() -> list[bytes]:
    return [encode(Publish(TOPIC, BODY, 1, packet_id=i), V5) for i in IDS]


def _their_encode() -> list[bytes]:
    qos = mqtt5.QoS.AT_LEAST_ONCE
    return [mqtt5.PublishPacket(TOPIC, BODY, qos=qos, packet_id=i).write() for i in IDS]


def _their_acks() -> list[bytes]:
    return [mqtt5.PubAckPacket(i).write() for i in IDS]


def _written(packets: Sequence[Publish]) -> bytes:
    return b"".join([encode(packet, V5) for packet in packets])


def _fan_out() -> list[bytes]:
    start, rest = Fanout(TOPIC, BODY).ends(V5, 1)
    return [start + _id(i) + rest for i in IDS]


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(rounds: int = ROUNDS) -> list[tuple[str, float, float]]:
    """Name, our packets per second, theirs."""
    found = []
    for name, ours, theirs in rivals():
        times = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
        found.append((name, COUNT / min(time[0] for time in times), COUNT / min(time[1] for time in times)))
    return found


def main() -> None:
    """Print the table."""
    table = Table("thousand packets/s", "ours", "mqtt5", "ratio")
    for name, ours, theirs in measure():
        table.add_row(name, f"{ours / 1000:,.0f}", f"{theirs / 1000:,.0f}", f"{ours / theirs:.2f}")
    Console(file=sys.stdout).print(table)


if __name__ == "__main__":
    main()
