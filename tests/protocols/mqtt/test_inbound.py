"""Messages that come with QoS 2: every pair of state and event; and the quota of what has no answer yet."""

import pytest

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.flow.inbound import TABLE, Do, Event, Inbound, Kept
from broker.protocols.mqtt.flow.quota import Quota


def world(state: Kept | None) -> Inbound:
    inbound = Inbound([7] if state is Kept.OWNED else [])
    if state is Kept.PENDING:
        inbound.publish(7)
    return inbound


def happen(inbound: Inbound, event: Event) -> Do:
    method = {
        Event.PUBLISH: inbound.publish,
        Event.COMMITTED: inbound.committed,
        Event.FAILED: inbound.failed,
        Event.PUBREL: inbound.release,
    }[event]
    return method(7)


def test_the_table_has_every_pair() -> None:
    assert set(TABLE) == {(state, event) for state in (None, *Kept) for event in Event}


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_every_pair(state: Kept | None, event: Event) -> None:
    inbound = world(state)
    after, do = TABLE[state, event]
    if do is Do.BREACH:
        with pytest.raises(MqttError) as caught:
            happen(inbound, event)
        assert caught.value.reason is Reason.PROTOCOL_ERROR
    else:
        assert happen(inbound, event) is do
    assert inbound.owned == ([7] if after is Kept.OWNED else [])
    expected = {None: Do.STORE, Kept.PENDING: Do.WAIT, Kept.OWNED: Do.PUBREC}[after]
    assert inbound.publish(7) is expected


@pytest.mark.statement("MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-12")
def test_a_message_is_stored_once_until_its_release() -> None:
    inbound = Inbound()
    assert inbound.publish(7) is Do.STORE
    assert inbound.publish(7) is Do.WAIT
    assert inbound.committed(7) is Do.PUBREC
    assert inbound.publish(7) is Do.PUBREC
    assert inbound.release(7) is Do.PUBCOMP
    assert inbound.release(7) is Do.PUBCOMP_UNKNOWN
    assert inbound.publish(7) is Do.STORE


@pytest.mark.statement("MQTT-4.3.3-9")
def test_after_a_refusal_the_identifier_is_of_a_new_message() -> None:
    inbound = Inbound()
    inbound.publish(7)
    assert inbound.failed(7) is Do.PUBREC_REFUSED
    assert inbound.publish(7) is Do.STORE


def test_what_was_owned_before_a_crash_is_not_stored_again() -> None:
    inbound = Inbound()
    inbound.publish(1)
    inbound.publish(2)
    inbound.committed(1)
    again = Inbound(inbound.owned)
    assert [again.publish(1), again.publish(2)] == [Do.PUBREC, Do.STORE]


@pytest.mark.statement("MQTT-3.3.4-8")
def test_more_than_the_receive_maximum_is_refused() -> None:
    quota = Quota(2)
    quota.take(0, 0)
    quota.take(1, 1)
    quota.take(2, 2)
    quota.take(2, 2)
    for qos in (1, 2):
        with pytest.raises(MqttError) as caught:
            quota.take(qos, 3)
        assert caught.value.reason is Reason.RECEIVE_MAXIMUM_EXCEEDED
    quota.give_1()
    quota.take(2, 3)
    with pytest.raises(MqttError):
        quota.take(1, 4)
    quota.give_2(2)
    quota.give_2(2)
    quota.take(1, 4)
    with pytest.raises(MqttError):
        quota.take(1, 5)
