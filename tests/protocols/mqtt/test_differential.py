"""Our codec against `mqtt5`, another's (Rust, MQTT 5.0 alone): each reads what the other writes and understands the
same, and what we accept it accepts. The other way round does not hold: it lets through what must be refused."""

from typing import Any, cast

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.mqtt.codec import packets as ours
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.decoder import Decoder
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import V5, Packet, Properties
from tests.protocols.mqtt.strategies import connects, from_clients, from_servers
from tests.protocols.mqtt.test_fuzz import mutated

ATTRIBUTES: dict[str, tuple[str, Any]] = {
    "payload_format": ("payload_format_indicator", 0),
    "message_expiry": ("message_expiry_interval", None),
    "content_type": ("content_type", None),
    "response_topic": ("response_topic", None),
    "correlation_data": ("correlation_data", None),
    "subscription_ids": ("subscription_ids", []),
    "session_expiry": ("session_expiry_interval", 0),
    "assigned_client_id": ("assigned_client_id", None),
    "server_keep_alive": ("server_keep_alive", None),
    "authentication_method": ("authentication_method", None),
    "authentication_data": ("authentication_data", None),
    "request_problem_information": ("request_problem_info", 1),
    "will_delay": ("will_delay_interval", 0),
    "request_response_information": ("request_response_info", 0),
    "response_information": ("response_info", None),
    "server_reference": ("server_reference", None),
    "reason_string": ("reason_str", None),
    "receive_maximum": ("receive_max", 65_535),
    "topic_alias_maximum": ("topic_alias_max", 0),
    "topic_alias": ("topic_alias", None),
    "maximum_qos": ("max_qos", 2),
    "retain_available": ("retain_available", 1),
    "user": ("user_properties", []),
    "maximum_packet_size": ("max_packet_size", None),
    "wildcard_subscriptions_available": ("wildcard_subscription_available", 1),
    "subscription_ids_available": ("subscription_id_available", 1),
    "shared_subscriptions_available": ("shared_subscription_available", 1),
}
"""Our name of a property to theirs and the value that they have for none."""


def told(given: Any) -> Properties:
    """Their properties as ours, without those that say nothing."""
    found = {name: getattr(given, attribute, none) for name, (attribute, none) in ATTRIBUTES.items()}
    if getattr(given, "subscription_id", None) is not None:
        found["subscription_ids"] = [given.subscription_id]
    return spare(cast(Properties, found))


def spare(properties: Properties) -> Properties:
    """Without what an absent property means anyway; they do not keep the difference."""
    return cast(
        Properties,
        {name: value for name, value in properties.items() if value is not None and value != ATTRIBUTES[name][1]},
    )


ACKS = {
    mqtt5.PubAckPacket: Kind.PUBACK,
    mqtt5.PubRecPacket: Kind.PUBREC,
    mqtt5.PubRelPacket: Kind.PUBREL,
    mqtt5.PubCompPacket: Kind.PUBCOMP,
}


def understood(theirs: Any) -> Packet:
    """Their packet as ours."""
    if type(theirs) in ACKS:
        return ours.Ack(ACKS[type(theirs)], (theirs.packet_id,), Reason(theirs.reason_code), told(theirs))
    match theirs:
        case mqtt5.PublishPacket():
            flags = (int(theirs.qos), theirs.retain, theirs.duplicate, theirs.packet_id or 0)
            return ours.Publish(theirs.topic, theirs.payload, *flags, told(theirs))
        case mqtt5.ConnectPacket():
            login = (theirs.clean_start, theirs.keep_alive, theirs.username, theirs.password, _will(theirs.will))
            return ours.Connect(V5, theirs.client_id, *login, told(theirs))
        case mqtt5.ConnAckPacket():
            return ours.Connack(Reason(theirs.reason_code), theirs.session_present, told(theirs))
        case mqtt5.SubscribePacket():
            return ours.Subscribe(theirs.packet_id, tuple(map(_request, theirs.topic_filters)), told(theirs))
        case mqtt5.SubAckPacket():
            return ours.Suback(theirs.packet_id, tuple(map(Reason, theirs.reason_codes)), told(theirs))
        case mqtt5.UnsubscribePacket():
            return ours.Unsubscribe(theirs.packet_id, tuple(theirs.patterns), told(theirs))
        case mqtt5.UnsubAckPacket():
            return ours.Unsuback(theirs.packet_id, tuple(map(Reason, theirs.reason_codes)), told(theirs))
        case mqtt5.DisconnectPacket():
            return ours.Disconnect(Reason(theirs.reason_code), told(theirs))
        case mqtt5.AuthPacket():
            return ours.Auth(Reason(theirs.reason_code), told(theirs))
        case mqtt5.PingReqPacket():
            return ours.Pingreq()
    return ours.Pingresp()


def _will(theirs: mqtt5.Will | None) -> ours.Will | None:
    if theirs is None:
        return None
    return ours.Will(theirs.topic, theirs.payload or b"", int(theirs.qos), theirs.retain, told(theirs))


def _request(theirs: mqtt5.TopicFilter) -> ours.Request:
    options = (theirs.no_local, theirs.retain_as_published, int(theirs.retain_handling))
    return ours.Request(theirs.pattern, int(theirs.max_qos), *options)


def spared(packet: Packet) -> Packet:
    """The same packet without properties that say nothing."""
    match packet:
        case ours.Publish() | ours.Ack():
            return packet._replace(properties=spare(packet.properties))
        case ours.Pingreq() | ours.Pingresp():
            return packet
        case ours.Connect(version, client_id, clean, keep_alive, username, password, will, properties):
            if will is not None:
                will = ours.Will(will.topic, will.payload, will.qos, will.retain, spare(will.properties))
            login = (clean, keep_alive, username, password, will)
            return ours.Connect(version, client_id, *login, spare(properties))
    return type(packet)(*(_spared_field(packet, name) for name in packet.__dataclass_fields__))


def _spared_field(packet: Any, name: str) -> Any:
    value = getattr(packet, name)
    return spare(value) if name == "properties" else value


def assert_alike(packet: Packet, *, from_client: bool) -> None:
    written = encode(packet, V5)
    theirs, size = mqtt5.read(memoryview(written))
    assert size == len(written)
    assert understood(theirs) == spared(packet)
    version = 0 if isinstance(packet, ours.Connect) else V5
    (again,) = Decoder(version=version, from_client=from_client).feed(theirs.write())
    assert spared(again) == spared(packet)


@given(from_clients(V5))
def test_packets_of_clients_mean_the_same(packet: Packet) -> None:
    assert_alike(packet, from_client=True)


@given(from_servers(V5))
def test_packets_of_servers_mean_the_same(packet: Packet) -> None:
    assert_alike(packet, from_client=False)


@given(connects(V5))
def test_connects_mean_the_same(packet: Packet) -> None:
    assert_alike(packet, from_client=True)


@pytest.mark.parametrize("from_client", [True, False])
@given(mutated())
def test_what_we_accept_is_accepted(from_client: bool, data: bytes) -> None:
    decoder = Decoder(version=V5, from_client=from_client)
    try:
        packets = decoder.feed(data)
    except MqttError as fault:
        packets = list(fault.before)
    at = 0
    while packets:
        packet = packets.pop(0)
        if data[at : at + 2] == b"\xf0\x00":  # AUTH may be empty (§3.15.2.1), which theirs does not know
            at += 2
            continue
        theirs, size = mqtt5.read(memoryview(data)[at:])
        at += size
        if isinstance(packet, ours.Ack) and len(packet.packet_ids) > 1:
            packets.insert(0, packet._replace(packet_ids=packet.packet_ids[1:]))
            packet = packet._replace(packet_ids=packet.packet_ids[:1])
        assert understood(theirs) == spared(packet)


@given(st.binary(max_size=3))
def test_neither_has_enough_of_a_cut_off_packet(payload: bytes) -> None:
    written = encode(ours.Publish("t", payload, 1, packet_id=1), V5)[:-1]
    with pytest.raises(IndexError):
        mqtt5.read(memoryview(written))
    assert Decoder(version=V5).feed(written) == []
