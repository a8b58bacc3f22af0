"""Answers give up their words where the receiver has no room or no use for them; a message is never cut."""

import pytest

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.encoder import encode
from broker.protocols.mqtt.codec.fitting import Answer, encode_fitting
from broker.protocols.mqtt.codec.packets import (
    NONE,
    V5,
    Ack,
    Auth,
    Connack,
    Disconnect,
    Properties,
    Publish,
    Suback,
    Unsuback,
)

WORDS: Properties = {"reason_string": "because", "user": [("a", "b"), ("c", "d")]}
REASON: Properties = {"reason_string": "because"}
FAILED = Reason.UNSPECIFIED_ERROR
METHOD: Properties = {"authentication_method": "m"}


def answers(words: Properties) -> list[Answer]:
    return [
        *(Ack(kind, (1,), FAILED, words) for kind in (Kind.PUBACK, Kind.PUBREC)),
        *(Ack(kind, (1,), Reason.PACKET_IDENTIFIER_NOT_FOUND, words) for kind in (Kind.PUBREL, Kind.PUBCOMP)),
        Suback(1, (FAILED,), words),
        Unsuback(1, (FAILED,), words),
        Connack(FAILED, False, words),
        Disconnect(FAILED, words),
        Auth(Reason.CONTINUE_AUTHENTICATION, {**METHOD, **words}),
    ]


CASES = list(zip(answers(WORDS), answers(REASON), answers(NONE), strict=True))


@pytest.mark.statement(
    *("MQTT-3.4.2-2", "MQTT-3.4.2-3", "MQTT-3.5.2-2", "MQTT-3.5.2-3", "MQTT-3.6.2-2", "MQTT-3.6.2-3"),
    *("MQTT-3.7.2-2", "MQTT-3.7.2-3", "MQTT-3.9.2-2", "MQTT-3.11.2-2", "MQTT-3.2.2-19", "MQTT-3.2.2-20"),
    *("MQTT-3.14.2-3", "MQTT-3.14.2-4", "MQTT-3.15.2-2", "MQTT-3.15.2-3"),
)
@pytest.mark.parametrize(("whole", "shorter", "bare"), CASES)
def test_an_answer_gives_up_what_does_not_fit(whole: Answer, shorter: Answer, bare: Answer) -> None:
    sizes = [len(encode(packet, V5)) for packet in (whole, shorter, bare)]
    assert sizes[0] > sizes[1] > sizes[2]
    fitting = [encode_fitting(whole, V5, maximum) for maximum in range(1, sizes[0] + 1)]
    assert fitting == [
        *[None] * (sizes[2] - 1),
        *[encode(bare, V5)] * (sizes[1] - sizes[2]),
        *[encode(shorter, V5)] * (sizes[0] - sizes[1]),
        encode(whole, V5),
    ]
    assert encode_fitting(whole, V5) == encode(whole, V5)


@pytest.mark.statement("MQTT-3.1.2-24", "MQTT-3.2.2-16")
def test_what_is_too_large_is_not_sent() -> None:
    assert encode_fitting(Connack(), V5, 4) is None
    assert encode_fitting(Connack(), V5, 5) is not None


@pytest.mark.statement("MQTT-3.1.2-25")
def test_a_message_is_sent_whole_or_not_at_all() -> None:
    packet = Publish("t", b"x" * 50, properties={"user": [("a", "b")]})
    size = len(encode(packet, V5))
    assert encode_fitting(packet, V5, size, problems=False) == encode(packet, V5)
    assert encode_fitting(packet, V5, size - 1) is None


@pytest.mark.statement("MQTT-3.1.2-29")
@pytest.mark.parametrize(("whole", "shorter", "bare"), CASES)
def test_a_client_that_wants_no_words_gets_them_with_the_connection_alone(
    whole: Answer, shorter: Answer, bare: Answer
) -> None:
    expected = whole if isinstance(whole, Connack | Disconnect) else bare
    assert encode_fitting(whole, V5, problems=False) == encode(expected, V5)


def test_the_maximum_is_of_each_packet_in_a_row() -> None:
    acks = Ack(Kind.PUBACK, (1, 2, 3), FAILED, REASON)
    size = len(encode(acks._replace(packet_ids=(1,)), V5))
    assert encode_fitting(acks, V5, size) == encode(acks, V5)
    assert encode_fitting(acks, V5, size - 1) == encode(acks._replace(properties=NONE), V5)
