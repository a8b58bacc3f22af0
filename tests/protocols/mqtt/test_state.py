"""`$SYS/broker/…`: the broker's state, at once and every ten seconds; for who asks for it by name."""

from broker.protocols.mqtt.codec.codes import Reason
from tests.protocols.mqtt.door import Door


async def test_it_is_told_at_once_and_again(door: Door) -> None:
    client = await door.connect("c")
    assert (await client.subscribe("$SYS/broker/clients/+", qos=2)).reasons == (Reason.SUCCESS,)
    told = {packet.topic: packet for packet in [await client.take() for _ in range(3)]}
    assert told.keys() == {f"$SYS/broker/clients/{name}" for name in ("connected", "disconnected", "total")}
    assert all(packet.retain and packet.qos == 0 for packet in told.values())
    for _ in range(10):
        door.server.tick()
    again = {packet.topic: packet.payload for packet in [await client.take() for _ in range(3)]}
    assert again["$SYS/broker/clients/connected"] == b"1"


async def test_a_kept_session_hears_it_while_it_is_there(door: Door) -> None:
    client = await door.connect("c", clean=False, expiry=60)
    await client.subscribe("$SYS/broker/uptime", qos=1, retain_handling=2)
    door.world.clock.move(7)
    for _ in range(10):
        door.server.tick()
    assert (await client.take()).payload == b"7 seconds"


async def test_wildcards_do_not_meet_it(door: Door) -> None:
    client = await door.connect("c")
    await client.subscribe("#")
    for _ in range(10):
        door.server.tick()
    await client.nothing()
