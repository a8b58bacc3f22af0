"""What dead letters say to MQTT clients."""

from broker.core.message import Meta, Row, packed_meta
from broker.core.mqtt import Heard, first_topic


def heard(meta: Meta, topic: str = "a") -> dict[str, str]:
    return dict(Heard((1, topic, 0, packed_meta(meta), b"")).properties.get("user", []))


def test_a_dead_letter_tells_where_it_is_from_and_why() -> None:
    history = [
        {"at": 1_795_424_400_123, "outcome": "retry", "error": "no such customer"},
        {"at": 1_795_424_401_000, "outcome": "lease ran out"},
    ]
    meta: Meta = {"topic": "orders/created", "history": history, "headers": {"mine": "1"}}
    pairs = Heard((1, "$dead/mailer", 0, packed_meta(meta), b"")).properties["user"]
    assert pairs == [
        ("mine", "1"),
        ("postroom-topic", "orders/created"),
        ("postroom-failure", "2026-11-23T09:00:00.123Z retry: no such customer"),
        ("postroom-failure", "2026-11-23T09:00:01.000Z lease ran out"),
    ]


def test_one_that_was_redriven_has_its_topic_again() -> None:
    row: Row = (1, "$redrive/mailer", 0, packed_meta({"topic": "orders/created"}), b"")
    assert first_topic(row) == "orders/created"
    assert "postroom-topic" not in heard({"topic": "orders/created"}, "$redrive/mailer")
    assert first_topic((1, "orders/x", 0, None, b"")) == "orders/x"
