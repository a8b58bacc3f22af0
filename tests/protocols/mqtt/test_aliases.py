"""Topic aliases both ways, and keep alive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.packets import Publish
from broker.protocols.mqtt.flow.aliases import AliasesIn, AliasesOut
from broker.protocols.mqtt.flow.keep_alive import deadline, granted


def aliased(topic: str, alias: int) -> Publish:
    return Publish(topic, b"", properties={"topic_alias": alias})


@pytest.mark.statement("MQTT-3.3.2-12")
def test_an_alias_stands_for_its_last_topic() -> None:
    aliases = AliasesIn(2)
    assert [aliases.topic(p) for p in (aliased("a", 1), aliased("", 1), Publish("b", b""), aliased("", 1))] == [
        *("a", "a", "b", "a")
    ]
    assert [aliases.topic(p) for p in (aliased("c", 1), aliased("", 1))] == ["c", "c"]


@pytest.mark.statement("MQTT-3.3.2-10")
def test_aliases_are_of_one_connection() -> None:
    AliasesIn(1).topic(aliased("a", 1))
    with pytest.raises(MqttError) as caught:
        AliasesIn(1).topic(aliased("", 1))
    assert caught.value.reason is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("maximum", [0, 3])
@pytest.mark.statement("MQTT-3.3.2-9", "MQTT-3.2.2-17", "MQTT-3.2.2-18")
def test_an_alias_over_the_maximum_is_refused(maximum: int) -> None:
    with pytest.raises(MqttError) as caught:
        AliasesIn(maximum).topic(aliased("a", maximum + 1))
    assert caught.value.reason is Reason.TOPIC_ALIAS_INVALID


@pytest.mark.statement("MQTT-3.1.2-26", "MQTT-3.1.2-27", "MQTT-3.3.2-11")
@given(st.integers(0, 4), st.lists(st.sampled_from("abcdef"), max_size=40))
def test_what_we_send_is_understood_within_the_receivers_maximum(maximum: int, topics: list[str]) -> None:
    ours, theirs = AliasesOut(maximum), AliasesIn(maximum)
    for topic in topics:
        alias, named = ours.alias(topic)
        assert 0 <= alias <= maximum
        assert (alias > 0) == (maximum > 0)
        sent = aliased(topic if named else "", alias) if alias else Publish(topic, b"")
        assert theirs.topic(sent) == topic


def test_the_topic_not_used_for_longest_loses_its_alias() -> None:
    aliases = AliasesOut(2)
    assert [aliases.alias(topic) for topic in "abaca"] == [(1, True), (2, True), (1, False), (2, True), (1, False)]


@pytest.mark.statement("MQTT-3.1.2-11", "MQTT-3.1.2-22")
def test_a_client_may_be_silent_for_one_and_a_half_keep_alives() -> None:
    assert deadline(100.0, 60) == 190.0
    assert deadline(100.0, 0) is None


@pytest.mark.parametrize(
    ("asked", "most", "held"), [(60, 3600, 60), (7200, 3600, 3600), (0, 3600, 3600), (0, 0, 0), (65_535, 0, 65_535)]
)
def test_keep_alive_is_bounded(asked: int, most: int, held: int) -> None:
    assert granted(asked, most) == held
