"""What one principal may have of sessions and retained messages; each refusal says the setting that it is about."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.core.retained import WEIGHT, Retained
from broker.limits import Limits
from broker.protocols.mqtt.backlogs import fair_level
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import V5, Ack, Connack, Connect, Publish, Will
from broker.protocols.mqtt.options import MqttOptions
from tests.protocols.mqtt.door import Client, Door, open_door


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
        (felt,) = door.hub.flow.limited.status()
        assert (felt["limit"], felt["who"], felt["times"]) == ("mqtt.sessions_per_principal", "local", 2)
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


async def test_who_connects_too_often_hears_it_in_connack(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(new_connections_per_principal=2)) as door:
        clients = [await door.dial() for _ in range(5)]
        reasons = []
        for client in clients:
            client.write(Connect(V5, ""))
        for client in clients:
            connack = await client.hear(Connack)
            reasons.append(connack.reason)
            if connack.reason is not Reason.SUCCESS:
                assert "limits.new_connections_per_principal" in connack.properties["reason_string"]
        assert reasons[:2] == [Reason.SUCCESS] * 2
        assert Reason.CONNECTION_RATE_EXCEEDED in reasons


async def test_a_principal_has_so_many_retained_messages_and_no_more(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(retained_messages_per_principal=2)) as door:
        writer = await door.connect("w")
        for topic in "ab":
            assert await writer.publish(topic, "x", retain=True) is Reason.SUCCESS
        await door.crash()
        writer = await door.connect("w")
        writer.write(Publish("c", b"x", 1, True, False, 7))
        ack = await writer.hear(Ack)
        assert ack.reason is Reason.QUOTA_EXCEEDED
        assert "limits.retained_messages_per_principal" in ack.properties["reason_string"]
        assert "retained_messages_per_principal" in await refused(
            await door.dial(), "will", will=Will("d", b"x", retain=True)
        )
        (felt,) = door.hub.flow.limited.status()
        assert (felt["limit"], felt["who"], felt["times"]) == ("limits.retained_messages_per_principal", "local", 2)
        assert await writer.publish("a", "y", retain=True) is Reason.SUCCESS
        assert await writer.publish("a", "", retain=True) is Reason.SUCCESS
        assert await writer.publish("c", "x", retain=True) is Reason.SUCCESS


async def waiting(door: Door) -> dict[str, tuple[int, int]]:
    """Messages and bytes in each queue, once backlogs were looked at."""
    for _ in range(3):
        await door.advance(1)
    await door.server.backlogs.stop()
    await door.world.quiet()
    engine = door.hub.engine
    return {info.spec.name: engine.weight(info.spec.name) for info in engine.subscriptions()}


async def test_the_largest_backlogs_of_a_principal_are_cut_to_one_level(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(queued_bytes_per_principal=2_000)) as door:
        for name, filters in (("small", ["a"]), ("large", ["a", "b"]), ("larger", ["a", "b", "c"])):
            client = await door.connect(name, expiry=1_000)
            await client.subscribe(*filters)
            await client.lost()
        writer = await door.connect("w")
        for topic in "abc":
            for i in range(3):
                await writer.publish(topic, f"{topic}{i}".ljust(100))
        assert await waiting(door) == {"mqtt/small": (3, 300), "mqtt/large": (6, 600), "mqtt/larger": (9, 900)}
        assert (door.server.status()["queued_bytes"], door.server.backlogs.dropped) == (1_800, 0)
        for i in range(3, 6):
            await writer.publish("c", f"c{i}".ljust(100))
        # 2,100 are too many; 1,800 are left: 300 of one, and of the others as much as makes them equal, or whole
        assert await waiting(door) == {"mqtt/small": (3, 300), "mqtt/large": (6, 600), "mqtt/larger": (9, 900)}
        assert door.server.backlogs.dropped == 3
        assert door.server.clients.show("larger", None)["dropped"] == 3
        await door.crash()
        larger = await door.connect("larger", expiry=1_000, clean=False, present=True)
        assert [body.strip() for body in await larger.bodies(9)] == ["b0", "b1", "b2", *[f"c{i}" for i in range(6)]]
        await door.server.sessions.forget("large", BrokerError(Code.DISMISSED))
        await waiting(door)
        assert door.server.status()["queued_bytes"] == 300


async def test_what_waits_in_all_is_bounded_groups_included(tmp_path: Path) -> None:
    async with open_door(tmp_path, MqttOptions(queued_bytes_in_all=1_000)) as door:
        client = await door.connect("c", expiry=1_000)
        await client.subscribe("a", "$share/g/a")
        await client.lost()
        writer = await door.connect("w")
        for _ in range(8):
            await writer.publish("a", "x" * 100)
        assert await waiting(door) == {"mqtt/c": (4, 400), "mqtt/$share/g/a": (4, 400)}


@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=20), st.integers(0, 5_000))
def test_at_the_fair_level_all_fit_in_and_nothing_is_wasted(sizes: list[int], room: int) -> None:
    level = fair_level(sizes, room)
    assert level >= 0
    left = sum(min(size, level) for size in sizes)
    assert left <= room
    if sum(sizes) > room:
        assert left > room - len(sizes)
    else:
        assert left == sum(sizes)


def test_each_has_his_own_part_and_what_he_takes_over_counts_for_him() -> None:
    size = WEIGHT + 2
    retained = Retained(4, 4 * size, 2, 2 * size)

    def put(topic: str, owner: str, body: bytes = b"x") -> None:
        retained.check(topic, None, body, owner)
        retained.put((1, topic, 0, None, body), 0, owner)

    put("a", "ann")
    put("b", "ann")
    with pytest.raises(BrokerError, match=r"of ann are retained; raise limits.retained_messages_per_principal"):
        put("c", "ann")
    with pytest.raises(BrokerError, match=r"of ann would take .* raise limits.retained_bytes_per_principal"):
        put("a", "ann", b"xx")
    put("a", "bob")
    put("c", "ann")
    put("d", "bob")
    with pytest.raises(BrokerError, match="of bob are retained"):
        put("c", "bob")
    with pytest.raises(BrokerError, match=r"^4 messages are retained; raise limits.retained_messages$"):
        put("e", "eve")
    for topic in "abcd":
        retained.put((1, topic, 0, None, b""))
    assert (len(retained), retained.size, retained._used_by) == (0, 0, {})
    put("e", "eve")
    assert retained.get("e").owner == "eve"
