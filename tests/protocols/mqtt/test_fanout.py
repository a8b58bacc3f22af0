"""What a fan-out puts together is what the encoder writes, for every variant of a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.mqtt.codec.codes import Kind
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.fanout import Fanout, written_ids
from broker.protocols.mqtt.codec.packets import V5, V311, Packet, Properties, Publish
from tests.protocols.mqtt.strategies import VERSIONS, names, packet_ids, payloads, properties

ALL_ALIKE = properties(Kind.PUBLISH, V5, from_client=True).map(
    lambda given: {name: value for name, value in given.items() if name != "topic_alias"}
)


@pytest.mark.parametrize("version", VERSIONS)
@given(names, payloads, ALL_ALIKE, st.integers(0, 2), st.booleans(), packet_ids)
def test_the_ends_make_the_packet(
    version: int, topic: str, body: bytes, carried: Properties, qos: int, retain: bool, packet_id: int
) -> None:
    fanout = Fanout(topic, body, carried)
    for _ in range(2):
        start, rest = fanout.ends(version, qos, retain)
        middle = packet_id.to_bytes(2, "big") if qos else b""
        packet = Publish(topic, body, qos, retain, False, packet_id if qos else 0, carried)
        assert start + middle + rest == encode(packet, version)


@given(
    *(names, payloads, ALL_ALIKE, st.integers(0, 2), st.booleans(), packet_ids),
    st.integers(0, 65_535),
    st.lists(st.integers(1, 268_435_455), max_size=4),
    st.booleans(),
)
def test_what_is_one_subscribers_own(
    topic: str,
    body: bytes,
    carried: Properties,
    qos: int,
    retain: bool,
    packet_id: int,
    alias: int,
    ids: list[int],
    named: bool,
) -> None:
    fanout = Fanout(topic, body, carried)
    own = written_ids(ids)
    named = named or not alias
    expected: Properties = {**carried}
    if alias:
        expected["topic_alias"] = alias
    if ids:
        expected["subscription_ids"] = ids
    wanted: Packet = Publish(topic if named else "", body, qos, retain, qos == 2, packet_id if qos else 0, expected)
    for _ in range(2):
        written = fanout.packet(V5, qos, retain, packet_id, dup=qos == 2, alias=alias, named=named, own=own)
        assert Decoder(version=V5, from_client=False).feed(written) == [wanted]


def test_older_versions_have_neither_aliases_nor_properties() -> None:
    fanout = Fanout("a", b"")
    assert fanout.packet(V311, 1, packet_id=7) == b"\x32\x05\x00\x01a\x00\x07"
    with pytest.raises(MqttError):
        fanout.packet(V311, 0, alias=1)
    with pytest.raises(MqttError):
        fanout.packet(V311, 0, own=b"\x0b\x01")
    with pytest.raises(MqttError):
        fanout.packet(V5, 0, named=False)


@pytest.mark.parametrize("topic", ["", "a/+", "a\0b", "a" * 65_536])
def test_a_topic_that_cannot_be_said_is_refused_at_once(topic: str) -> None:
    with pytest.raises(MqttError):
        Fanout(topic, b"")
