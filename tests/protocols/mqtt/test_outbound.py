"""Messages in flight to a receiver: every pair of state and answer, identifiers, room, and what is sent again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.packets import Ack
from broker.protocols.mqtt.flow.outbound import MAX_PACKET_ID, TABLE, Answer, Do, Outbound, Sent

ACKS = {
    Answer.PUBACK: (Kind.PUBACK, Reason.NO_MATCHING_SUBSCRIBERS),
    Answer.PUBACK_REFUSED: (Kind.PUBACK, Reason.QUOTA_EXCEEDED),
    Answer.PUBREC: (Kind.PUBREC, Reason.SUCCESS),
    Answer.PUBREC_REFUSED: (Kind.PUBREC, Reason.UNSPECIFIED_ERROR),
    Answer.PUBCOMP: (Kind.PUBCOMP, Reason.PACKET_IDENTIFIER_NOT_FOUND),
}


def ack(answer: Answer, *packet_ids: int) -> Ack:
    kind, reason = ACKS[answer]
    if answer is Answer.PUBCOMP:
        return Ack(kind, packet_ids)
    return Ack(kind, packet_ids, reason)


def world(state: Sent | None) -> Outbound[str]:
    return Outbound(sent=[] if state is None else [(7, state, "m")])


def states(outbound: Outbound[str]) -> dict[int, Sent]:
    return {packet_id: state for packet_id, state, _ in outbound.unanswered()}


def test_the_table_has_every_pair() -> None:
    assert set(TABLE) == {(state, answer) for state in (None, *Sent) for answer in Answer}


@pytest.mark.parametrize(("state", "answer"), TABLE)
def test_every_pair(state: Sent | None, answer: Answer) -> None:
    outbound = world(state)
    step = outbound.on(ack(answer, 7))
    after, do = TABLE[state, answer]
    assert states(outbound) == ({} if after is None else {7: after})
    assert step.settled == (["m"] if do is Do.SETTLE else [])
    assert step.refused == (["m"] if do is Do.REFUSE else [])
    assert step.released == ([(7, None if state is Sent.RELEASED else "m")] if do is Do.RELEASE else [])
    assert step.finished == ([7] if do is Do.FORGET else [])
    assert step.unknown == ([7] if do is Do.DENY else [])
    assert (step.fault is not None) == (do is Do.BREACH)


@pytest.mark.statement("MQTT-4.3.2-3")
def test_a_message_is_unanswered_until_its_puback() -> None:
    outbound: Outbound[str] = Outbound()
    first, second = outbound.send(1, "a"), outbound.send(1, "b")
    assert outbound.unanswered() == [(first, Sent.QOS_1, "a"), (second, Sent.QOS_1, "b")]
    assert outbound.on(ack(Answer.PUBACK, second)).settled == ["b"]
    assert outbound.unanswered() == [(first, Sent.QOS_1, "a")]


@pytest.mark.statement("MQTT-4.3.3-3", "MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-4.3.3-6")
def test_qos_2_is_sent_released_and_finished() -> None:
    outbound: Outbound[str] = Outbound()
    packet_id = outbound.send(2, "a")
    assert outbound.unanswered() == [(packet_id, Sent.QOS_2, "a")]
    assert outbound.on(ack(Answer.PUBREC, packet_id)).released == [(packet_id, "a")]
    assert outbound.unanswered() == [(packet_id, Sent.RELEASED, "a")]
    assert outbound.on(ack(Answer.PUBCOMP, packet_id)).finished == [packet_id]
    assert outbound.unanswered() == []


@pytest.mark.statement("MQTT-4.4.0-2")
@pytest.mark.parametrize(("qos", "answer"), [(1, Answer.PUBACK_REFUSED), (2, Answer.PUBREC_REFUSED)])
def test_what_is_refused_is_not_sent_again(qos: int, answer: Answer) -> None:
    outbound: Outbound[str] = Outbound()
    packet_id = outbound.send(qos, "a")
    assert outbound.on(ack(answer, packet_id)).refused == ["a"]
    assert outbound.unanswered() == []


@pytest.mark.statement("MQTT-3.3.4-7", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
def test_no_more_are_in_flight_than_the_receiver_takes() -> None:
    outbound: Outbound[str] = Outbound(2)
    one, two = outbound.send(1, "a"), outbound.send(2, "b")
    assert outbound.room == 0
    with pytest.raises(ValueError, match="in flight"):
        outbound.send(1, "c")
    outbound.on(ack(Answer.PUBREC, two))
    assert outbound.room == 0
    outbound.on(ack(Answer.PUBCOMP, two))
    assert outbound.room == 1
    outbound.on(ack(Answer.PUBACK, one))
    assert outbound.room == 2
    outbound.on(ack(Answer.PUBACK, one))
    assert outbound.room == 2


def test_a_receiver_that_takes_less_after_a_reconnect_has_no_room() -> None:
    outbound: Outbound[str] = Outbound()
    for token in "abc":
        outbound.send(1, token)
    outbound.receive_maximum = 1
    assert outbound.room == 0


@pytest.mark.statement("MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
@given(st.sets(st.integers(1, MAX_PACKET_ID), max_size=30), st.integers(0, 40))
def test_identifiers_are_never_0_and_never_in_use(used: set[int], more: int) -> None:
    outbound: Outbound[str] = Outbound(sent=[(packet_id, Sent.QOS_1, "old") for packet_id in used])
    found = [outbound.send(1 + i % 2, "new") for i in range(more)]
    assert len({*found, *used}) == len(found) + len(used)
    assert all(1 <= packet_id <= MAX_PACKET_ID for packet_id in found)


def test_all_identifiers_can_be_in_flight() -> None:
    outbound: Outbound[int] = Outbound()
    assert sorted(outbound.send(1, 0) for _ in range(MAX_PACKET_ID)) == list(range(1, MAX_PACKET_ID + 1))
    assert outbound.room == 0


@pytest.mark.statement("MQTT-4.6.0-1")
def test_what_is_sent_again_keeps_its_order() -> None:
    outbound: Outbound[str] = Outbound(sent=[(MAX_PACKET_ID, Sent.QOS_1, "a")])
    outbound.send(2, "b")
    outbound.send(1, "c")
    outbound.on(ack(Answer.PUBREC, 1))
    assert [token for _, _, token in outbound.unanswered()] == ["a", "b", "c"]


def test_what_came_before_a_breach_counts() -> None:
    outbound: Outbound[str] = Outbound()
    one, two, three = outbound.send(1, "a"), outbound.send(2, "b"), outbound.send(1, "c")
    step = outbound.on(ack(Answer.PUBACK, one, two, three))
    assert step.settled == ["a"]
    assert step.fault is not None
    assert step.fault.reason is Reason.PROTOCOL_ERROR
    assert states(outbound) == {two: Sent.QOS_2, three: Sent.QOS_1}


def test_a_pubrel_is_no_answer_to_what_was_sent() -> None:
    with pytest.raises(ValueError, match="PUBREL"):
        world(None).on(Ack(Kind.PUBREL, (1,)))
