"""Every scenario of Paho's suite is there, by its name."""

from tests.protocols.mqtt.scenarios import SUITES, TABLE, table

PAHO_311 = (
    "basic retained_messages zero_length_clientid offline_message_queueing overlapping_subscriptions keepalive"
    " redelivery_on_reconnect subscribe_failure dollar_topics unsubscribe"
)
PAHO_5 = (
    "basic retained_message will_message zero_length_clientid offline_message_queueing overlapping_subscriptions"
    " keepalive redelivery_on_reconnect subscribe_failure dollar_topics unsubscribe session_expiry user_properties"
    " payload_format publication_expiry subscribe_options assigned_clientid subscribe_identifiers request_response"
    " client_topic_alias server_topic_alias maximum_packet_size server_keep_alive flow_control1 flow_control2"
    " will_delay shared_subscriptions"
)


def test_each_has_its_test() -> None:
    for (_, module, count), names in zip(SUITES, (PAHO_311, PAHO_5), strict=True):
        tests = [name.removeprefix("test_") for name in vars(module) if name.startswith("test_")]
        assert tests == names.split()
        assert len(tests) == count


def test_the_table_is_true() -> None:
    assert TABLE.read_text() == table(), "run python -m tests.protocols.mqtt.scenarios and look at what changed"
