"""What one principal may have of sessions and retained messages; each refusal says the setting that it is about."""

from pathlib import Path

import pytest

from broker.core.errors import BrokerError
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import V5, Ack, Connack, Connect, Publish, Will
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.retained import WEIGHT, Retained
from tests.protocols.mqtt.door import Client, open_door


async def refused(client: Client, name: str, **options: object) -> str:
    client.write(Connect(V5, name, **options))  # type: ignore[arg-type]
    connack = await client.hear(Connack)
    assert connack.reason is Reason.QUOTA_EXCEEDED
    return connack.properties["reason_string"]


async def test_a_principal_has_so_many_sessions_and_no_more(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(sessions_per_principal=2)) as door:
        kept = await door.connect("kept", expiry=60)
        await kept.lost()
        await door.advance(0)
        live = await door.connect("live")
        assert "mqtt.sessions_per_principal" in await refused(await door.dial(), "third")
        assert "local has 2 sessions" in await refused(await door.dial(), "third", will=Will("a", b""))
        kept = await door.connect("kept", expiry=60, clean=False, present=True)
        await live.leave()
        third = await door.connect("third")
        await third.leave()
        await kept.lost()
        await door.crash()
        await door.connect("fourth")
        await refused(await door.dial(), "fifth")
        await door.advance(61)
        await door.connect("fifth")


async def test_a_principal_has_so_many_retained_messages_and_no_more(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(retained_messages_per_principal=2)) as door:
        writer = await door.connect("w")
        for topic in "ab":
            assert await writer.publish(topic, "x", retain=True) is Reason.SUCCESS
        await door.crash()
        writer = await door.connect("w")
        writer.write(Publish("c", b"x", 1, True, False, 7))
        ack = await writer.hear(Ack)
        assert ack.reason is Reason.QUOTA_EXCEEDED
        assert "mqtt.retained_messages_per_principal" in ack.properties["reason_string"]
        assert "retained_messages_per_principal" in await refused(
            await door.dial(), "will", will=Will("d", b"x", retain=True)
        )
        assert await writer.publish("a", "y", retain=True) is Reason.SUCCESS
        assert await writer.publish("a", "", retain=True) is Reason.SUCCESS
        assert await writer.publish("c", "x", retain=True) is Reason.SUCCESS


def test_each_has_his_own_part_and_what_he_takes_over_counts_for_him() -> None:
    size = WEIGHT + 2
    retained = Retained(4, 4 * size, 2, 2 * size)

    def put(topic: str, owner: str, body: bytes = b"x") -> None:
        retained.check(topic, None, body, owner)
        retained.put((1, topic, 0, None, body), 0, owner)

    put("a", "ann")
    put("b", "ann")
    with pytest.raises(BrokerError, match=r"of ann are retained; raise mqtt.retained_messages_per_principal"):
        put("c", "ann")
    with pytest.raises(BrokerError, match=r"of ann would take .* raise mqtt.retained_bytes_per_principal"):
        put("a", "ann", b"xx")
    put("a", "bob")
    put("c", "ann")
    put("d", "bob")
    with pytest.raises(BrokerError, match="of bob are retained"):
        put("c", "bob")
    with pytest.raises(BrokerError, match=r"^4 messages are retained; raise mqtt.retained_messages$"):
        put("e", "eve")
    for topic in "abcd":
        retained.put((1, topic, 0, None, b""))
    assert (len(retained), retained.size, retained._used_by) == (0, 0, {})
    put("e", "eve")
    assert retained.get("e").owner == "eve"
