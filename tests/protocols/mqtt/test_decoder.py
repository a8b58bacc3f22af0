"""Framing, limits and the greeting; what each packet may hold is in the other tests."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import Code
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.dialect import Limits
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import (
    NONE,
    V5,
    V31,
    V311,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Publish,
    Request,
    Subscribe,
    Unsubscribe,
)
from tests.protocols.mqtt.strategies import VERSIONS
from tests.protocols.mqtt.vectors import payload

SMALL = Limits(max_packet=200, max_connect=100, max_early=150, max_user_properties=2, max_filters=3)


def refused(decoder: Decoder, data: bytes) -> MqttError:
    with pytest.raises(MqttError) as caught:
        decoder.feed(data)
    return caught.value


# Runs: PUBLISHes and acknowledgements in a row take the short way, which must not differ from the long one


@pytest.mark.parametrize("version", VERSIONS)
@given(
    st.lists(
        st.builds(
            Publish,
            st.sampled_from(["a", "b", "some/longer/topic"]),
            st.sampled_from([b"", b"x", b"y", b"12345678", b"z" * 150]),
            st.integers(0, 2),
            st.booleans(),
            st.just(False),
            st.integers(1, 3),
            st.just(NONE),
        ),
        max_size=30,
    ),
    st.lists(st.integers(0, 3000), max_size=3),
)
def test_runs_of_publishes(version: int, drawn: list[Publish], cuts: list[int]) -> None:
    packets: list[Packet] = [packet if packet.qos else packet._replace(packet_id=0) for packet in drawn]
    data = b"".join(encode(packet, version) for packet in packets)
    decoder = Decoder(version=version)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = [p for a, b in pairwise(places) for p in decoder.feed(data[a:b])]
    assert found == packets


def test_a_run_ends_where_properties_begin() -> None:
    packets: list[Packet] = [
        Publish("t", b"12345678", 1, packet_id=1),
        Publish("t", b"12345678", 1, packet_id=2),
        Publish("t", b"123456", 1, packet_id=3, properties={"payload_format": 1}),
        Publish("t", b"12345678", 1, packet_id=4),
    ]
    assert len({len(encode(packet, V5)) for packet in packets}) == 1
    assert Decoder(version=V5).feed(b"".join(encode(packet, V5) for packet in packets)) == packets


@pytest.mark.parametrize("broken", ["32 r6 s1 'a' m0 v0", "40 r2 m0"])
def test_what_is_wrong_within_a_run_comes_after_what_was_right(broken: str) -> None:
    right: list[Packet] = [
        Publish("a", b"", 1, packet_id=1),
        Publish("a", b"", 1, packet_id=2),
        Ack(Kind.PUBACK, (5, 6)),
    ]
    written = b"".join(encode(packet, V5) for packet in right)
    decoder = Decoder(version=V5)
    fault = refused(decoder, written + payload(broken) + written)
    assert list(fault.before) == right
    assert decoder.feed(written) == []


@pytest.mark.parametrize("text", ["C0 r1 00", "A2 r7 m1 v0 s1 'a' 00", "E0 r3 00 v0 00", "40 r5 m1 00 v0 00"])
def test_a_packet_with_bytes_left_over_is_none(text: str) -> None:
    assert refused(Decoder(version=V5), payload(text)).before == []


# Limits


@pytest.mark.parametrize("version", VERSIONS)
def test_a_packet_over_the_limit_is_refused_by_its_header_alone(version: int) -> None:
    decoder = Decoder(SMALL, version=version)
    assert decoder.feed(encode(Publish("a", b"x" * 190), version))
    fault = refused(decoder, b"\x30\xc9\x01")
    assert fault.reason is Reason.PACKET_TOO_LARGE
    assert fault.code is Code.FRAME_TOO_LARGE


def test_a_short_packet_over_a_short_limit_is_refused_too() -> None:
    assert refused(Decoder(Limits(max_packet=10), version=V5), b"\x30\x09").reason is Reason.PACKET_TOO_LARGE


def test_a_large_connect_is_refused_by_its_header_alone() -> None:
    assert refused(Decoder(SMALL), b"\x10\x63").reason is Reason.PACKET_TOO_LARGE


def test_the_wrong_first_packet_is_refused_by_its_first_byte() -> None:
    assert refused(Decoder(), b"\x30").rules == ("MQTT-3.1.0-1",)


def test_a_packet_in_pieces_takes_no_more_memory_than_it_is_long() -> None:
    decoder = Decoder(version=V5)
    data = encode(Publish("a", b"x" * 500_000), V5)
    tracemalloc.start()
    try:
        for i in range(0, len(data) - 1, 3):
            assert decoder.feed(data[i : min(i + 3, len(data) - 1)]) == []
        assert tracemalloc.get_traced_memory()[0] < 700_000
    finally:
        tracemalloc.stop()
    assert decoder.feed(data[-1:]) == [Publish("a", b"x" * 500_000)]


def test_too_many_user_properties_are_refused() -> None:
    decoder = Decoder(SMALL, version=V5)
    user = [("a", "b")] * 2
    assert decoder.feed(encode(Publish("t", b"", properties={"user": user}), V5))
    fault = refused(decoder, encode(Publish("t", b"", properties={"user": [*user, ("a", "b")]}), V5))
    assert fault.reason is Reason.QUOTA_EXCEEDED


@pytest.mark.parametrize("version", VERSIONS)
def test_too_many_filters_are_refused(version: int) -> None:
    three = (Request("a"),) * 3
    assert Decoder(SMALL, version=version).feed(encode(Subscribe(1, three), version))
    for packet in (Subscribe(1, (*three, Request("b"))), Unsubscribe(1, ("a",) * 4)):
        assert refused(Decoder(SMALL, version=version), encode(packet, version)).reason is Reason.QUOTA_EXCEEDED


# The greeting


def test_a_client_that_says_too_much_too_early_is_refused() -> None:
    decoder = Decoder(SMALL)
    decoder.feed(encode(Connect(V5, "c"), V5))
    decoder.feed(b"\xc0\x00" * 75)
    assert refused(decoder, b"\xc0").reason is Reason.QUOTA_EXCEEDED
    assert decoder.admit() == []


def test_what_came_early_may_be_larger_than_a_connect() -> None:
    decoder = Decoder(SMALL)
    packets: list[Packet] = [Publish("a", b"x" * 120), Pingreq()]
    data = b"".join(encode(packet, V311) for packet in (Connect(V311, "c"), *packets))
    assert [decoder.feed(data[:30]), decoder.feed(data[30:])] == [[Connect(V311, "c")], []]
    assert decoder.admit() == packets


def test_a_client_that_authenticates_is_heard_before_it_is_admitted() -> None:
    decoder = Decoder()
    auth = Auth(Reason.CONTINUE_AUTHENTICATION, {"authentication_method": "m", "authentication_data": b"1"})
    connect = Connect(V5, "c", properties={"authentication_method": "m"})
    assert decoder.feed(encode(connect, V5) + encode(auth, V5)) == [connect, auth]
    assert decoder.feed(encode(auth, V5)) == [auth]
    assert decoder.feed(encode(Disconnect(), V5)) == []
    assert decoder.admit() == [Disconnect()]


def test_auth_of_a_client_that_does_not_authenticate_waits() -> None:
    decoder = Decoder()
    auth = Auth(Reason.CONTINUE_AUTHENTICATION, {"authentication_method": "m"})
    assert decoder.feed(encode(Connect(V5, "c"), V5) + encode(auth, V5)) == [Connect(V5, "c")]


def test_a_fault_after_the_admission_is_told_then() -> None:
    decoder = Decoder()
    decoder.feed(encode(Connect(V311, "c"), V311) + b"\xc0\x00\x10\x00")
    with pytest.raises(MqttError) as caught:
        decoder.admit()
    assert list(caught.value.before) == [Pingreq()]
    assert caught.value.rules == ("MQTT-3.1.0-2",)


def test_the_version_is_known_when_a_connect_is_refused() -> None:
    decoder = Decoder()
    assert refused(decoder, payload("10 r12 s4 'MQTT' 04 00 k10 s0")).reason is Reason.CLIENT_IDENTIFIER_NOT_VALID
    assert decoder.version == V311


# What versions before MQTT 5 have of their own


@pytest.mark.parametrize("text", ["16 r15 s6 'MQIsdp' 03 03 k10 s1 'p'", "10 r15 s6 'MQIsdp' 03 C2 k10 s1 'p'"])
def test_3_1_ignores_flags_and_lets_names_be_missing(text: str) -> None:
    assert Decoder().feed(payload(text)) == [Connect(V31, "p", keep_alive=10)]


def test_3_1_does_not_tell_of_a_session() -> None:
    assert encode(Connack(session_present=True), V31) == b"\x20\x02\x00\x00"
    assert Decoder(version=V31, from_client=False).feed(b"\x20\x02\xff\x00") == [Connack()]


@pytest.mark.parametrize("head", [0x6A, 0x8A, 0xAA])
def test_dup_is_a_flag_of_3_1_alone(head: int) -> None:
    bodies = {0x6A: b"\0\1", 0x8A: b"\0\1\0\1a\0", 0xAA: b"\0\1\0\1a"}
    data = bytes((head, len(bodies[head]))) + bodies[head]
    assert len(Decoder(version=V31).feed(data)) == 1
    assert refused(Decoder(version=V311), data).reason is Reason.MALFORMED_PACKET


@pytest.mark.parametrize(
    "text",
    [
        "40 r3 m1 00",
        "E0 r1 00",
        "82 r6 m1 s1 'a' 04",
        "F0 r0",
    ],
)
def test_what_came_with_mqtt_5_is_refused_before(text: str) -> None:
    refused(Decoder(version=V311), payload(text))


def test_a_server_of_3_1_1_sends_no_disconnect() -> None:
    refused(Decoder(version=V311, from_client=False), b"\xe0\x00")


def test_a_password_without_a_user_name_came_with_mqtt_5() -> None:
    refused(Decoder(), payload("10 r15 s4 'MQTT' 04 42 k10 s1 'p' s0"))
    assert Decoder().feed(encode(Connect(V5, "", password=b"p"), V5)) == [Connect(V5, "", password=b"p")]


# Text


@pytest.mark.parametrize("odd", ["\x01", "\x1f", "\x7f", "\x9f", "\ufdd0", "\uffff", "\U0001ffff", "\U0010fffe"])
def test_names_hold_no_control_codes_and_free_text_may(odd: str) -> None:
    free: Packet = Publish("a", b"", properties={"user": [(odd, odd)], "content_type": odd})
    assert Decoder(version=V5).feed(encode(free, V5)) == [free]
    name = odd.encode()
    size = len(name)
    for data in (
        bytes((0x30, size + 3, 0, size)) + name + b"\0",
        bytes((0x82, size + 6, 0, 1, 0, 0, size)) + name + b"\0",
    ):
        assert refused(Decoder(version=V5), data).reason is Reason.MALFORMED_PACKET


@pytest.mark.parametrize(
    "fine", ["a b", "ü", "\u00a0", "\u2028", "\U0002a6d4", "e\u0301", "/", "//a/", "$SYS/x", "$share"]
)
def test_other_names_are_kept_as_they_are(fine: str) -> None:
    assert Decoder(version=V5).feed(encode(Publish(fine, b""), V5)) == [Publish(fine, b"")]
