"""The statements of the standard that bytes alone can break, a test for each; `statements.py` makes the table."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.fanout import Fanout
from broker.protocols.mqtt.codec.packets import V5, Ack, Connect, Pingreq, Publish, Will
from tests.protocols.mqtt.cases import BROKEN, Case


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_what_breaks_a_statement_is_refused(case: Case) -> None:
    case.check()


@pytest.mark.parametrize("case", [case for case in BROKEN if isinstance(case.sent, bytes)], ids=str)
def test_it_is_refused_byte_by_byte_too(case: Case) -> None:
    assert isinstance(case.sent, bytes)
    decoder = Decoder(version=case.version, from_client=case.from_client)
    with pytest.raises(MqttError) as caught:
        deque(map(decoder.feed, (bytes((byte,)) for byte in case.sent)), maxlen=0)
    assert caught.value.reason is case.reason


def read(data: bytes) -> Publish:
    (packet,) = Decoder(version=V5).feed(data)
    assert isinstance(packet, Publish)
    return packet


@pytest.mark.statement("MQTT-1.5.4-3")
def test_a_byte_order_mark_is_kept() -> None:
    mark = "\ufeffa\ufeff"
    assert read(encode(Publish(mark, b"", properties={"content_type": mark}), V5)) == Publish(
        mark, b"", properties={"content_type": mark}
    )


@pytest.mark.statement("MQTT-2.2.1-2")
def test_qos_0_has_no_identifier() -> None:
    assert encode(Publish("a", b"x", packet_id=7), V5) == b"\x30\x05\x00\x01a\x00x"
    assert read(b"\x30\x05\x00\x01a\x00x").packet_id == 0


@pytest.mark.statement("MQTT-2.2.2-1")
def test_no_properties_are_a_length_of_0() -> None:
    assert encode(Publish("a", b"", 1, packet_id=1), V5) == b"\x32\x06\x00\x01a\x00\x01\x00"
    assert Fanout("a", b"").ends(V5, 0) == (b"\x30\x04\x00\x01a", b"\x00")


@pytest.mark.statement("MQTT-3.1.3-1")
def test_the_payload_of_connect_is_in_order() -> None:
    will = Will("wt", b"wp", properties={"will_delay": 1})
    written = encode(Connect(V5, "id", username="un", password=b"pw", will=will), V5)
    assert written.endswith(b"\x00\x02id\x05\x18\x00\x00\x00\x01\x00\x02wt\x00\x02wp\x00\x02un\x00\x02pw")


@pytest.mark.statement("MQTT-3.1.3-3")
@given(st.text("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=23))
def test_plain_client_identifiers_are_read(client_id: str) -> None:
    for version in (3, 4, 5):
        (packet,) = Decoder().feed(encode(Connect(version, client_id), version))
        assert isinstance(packet, Connect)
        assert packet.client_id == client_id


@pytest.mark.statement("MQTT-3.1.4-6")
def test_nothing_is_read_of_a_client_that_is_not_admitted() -> None:
    decoder = Decoder()
    rest = encode(Publish("a", b"x"), V5) + encode(Pingreq(), V5)
    (connect,) = decoder.feed(encode(Connect(V5, "c"), V5) + rest[:5])
    assert isinstance(connect, Connect)
    assert decoder.feed(rest[5:]) == []
    assert decoder.admit() == [Publish("a", b"x"), Pingreq()]


@pytest.mark.statement("MQTT-3.3.2-18")
def test_user_properties_keep_their_order() -> None:
    user = [("b", "1"), ("a", "2"), ("b", "0"), ("a", "2")]
    assert read(encode(Publish("a", b"", properties={"user": user}), V5)).properties == {"user": user}
    assert read(b"".join(Fanout("a", b"", {"user": user}).ends(V5, 0))).properties == {"user": user}


@pytest.mark.statement("MQTT-6.0.0-2")
@given(st.integers(0, 12))
def test_packets_need_not_be_aligned_with_reads(cut: int) -> None:
    data = encode(Publish("a/b", b"xy"), V5) + encode(Ack(Kind.PUBACK, (7,)), V5)
    decoder = Decoder(version=V5)
    assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == [
        Publish("a/b", b"xy"),
        Ack(Kind.PUBACK, (7,), Reason.SUCCESS),
    ]
