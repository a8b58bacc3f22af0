"""Sessions that are resumed by a client that differs from the one before, or that was refused something."""

from pathlib import Path

from broker.limits import Limits
from broker.protocols.mqtt.codec.packets import V311, Publish, Unsubscribe
from tests.protocols.mqtt.door import Door, open_door


async def test_an_identifier_that_an_older_client_was_let_go_for_is_of_a_new_message(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits=Limits(max_body=10)) as door:
        client = await door.connect("kept", V311, clean=False)
        client.write(Publish("a", b"much too large", 2, packet_id=3))
        await client.closed()
        client = await door.connect("kept", V311, clean=False, present=True)
        await client.publish("a", "x", 2, 3)


async def test_what_was_in_flight_is_not_sent_again_to_who_takes_no_packet_of_its_size(door: Door) -> None:
    client, writer = await door.connect("kept", clean=False, expiry=100), await door.connect("w")
    await client.subscribe("a", qos=2)
    for qos in (1, 2):
        await writer.publish("a", "x" * 200, qos)
        await client.hear(Publish)
    await client.lost()
    client = await door.connect("kept", clean=False, expiry=100, present=True, maximum_packet_size=100)
    await client.nothing()
    await writer.publish("a", "y")
    assert await client.bodies(1) == ["y"]
    await client.leave()
    client = await door.connect("kept", clean=False, expiry=100, present=True)
    await client.nothing()


async def test_a_session_that_was_to_end_with_its_connection_ends_with_a_takeover(door: Door) -> None:
    client = await door.connect("kept", clean=False, expiry=100)
    await client.subscribe("a")
    await client.leave()
    await door.connect("kept", clean=False, expiry=0, present=True)
    await door.connect("kept", clean=False, expiry=100, present=False)


async def test_what_waits_for_an_identifier_goes_to_another_member_when_this_one_leaves(door: Door) -> None:
    client, other, writer = await door.connect("c", receive_maximum=1), await door.connect("o"), await door.connect("w")
    await client.subscribe("own", "$share/g/a")
    await writer.publish("own", "first")
    first = await client.hear(Publish)
    await writer.publish("a", "x")
    await client.ping()
    await other.subscribe("$share/g/a")
    client.write(Unsubscribe(9, ("$share/g/a",)))
    assert await other.bodies(1) == ["x"]
    await client.answer(first)
    await client.nothing()
