"""The id of a message over MQTT: given by who publishes it, heard by who connects as a bridge."""

import pytest

from broker.auth.principal import LOCAL
from broker.core.message import Message
from broker.core.mqtt import ORIGIN, Heard, packed
from broker.core.position import EARLIEST
from broker.hub import Outgoing
from broker.protocols.mqtt.codec.packets import Properties
from tests.protocols.mqtt.door import Door


def saying(*user: tuple[str, str]) -> Properties:
    return {"user": list(user)}


async def test_a_message_with_an_id_is_stored_once(door: Door) -> None:
    writer = await door.connect("w")
    for _ in range(2):
        await writer.publish("a", "x", properties=saying(("postroom-id", "one")))
    await writer.publish("a", "y", properties=saying(("postroom-id", "two")))
    await door.crash()
    writer = await door.connect("w")
    await writer.publish("a", "x", properties=saying(("postroom-id", "one")))
    rows = (await door.hub.read(LOCAL, ["a"], EARLIEST, 9)).rows
    assert [row[4] for row in rows] == [b"x", b"y"]


async def test_other_doors_see_the_fields_that_are_given_as_user_properties(door: Door) -> None:
    writer = await door.connect("w")
    given = (("postroom-priority", "7"), ("h", "v"), ("postroom-key", "k"), ("postroom-id", "i"))
    await writer.publish("a", "x", properties=saying(*given))
    (row,) = (await door.hub.read(LOCAL, ["a"], EARLIEST, 9)).rows
    message = Message.of(row, door.hub.engine.epoch)
    assert (message.id, message.key, message.priority, message.headers) == ("i", "k", 7, {"h": "v"})


@pytest.mark.parametrize(
    "user",
    [
        [("postroom-key", "k"), ("postroom-id", "i"), ("postroom-priority", "3")],
        [("postroom-priority", "3"), ("a", "1"), ("postroom-key", "k")],
        [("postroom-id", "i"), ("postroom-id", "j")],
        [("postroom-id", ""), ("postroom-key", "k" * 256), ("postroom-priority", "10")],
    ],
)
def test_user_properties_are_heard_in_the_order_in_which_they_were_given(user: list[tuple[str, str]]) -> None:
    heard = Heard((1, "a", 0, packed(1, False, {"user": user}, 0), b""))
    assert heard.properties == {"user": user}


async def test_a_bridge_hears_which_log_it_speaks_with_and_the_id_of_every_message(door: Door) -> None:
    bridge = await door.connect("b", user=[(ORIGIN, "theirs")])
    plain = await door.connect("p")
    assert bridge.connack.properties["user"] == [(ORIGIN, door.hub.engine.epoch)]
    assert "user" not in plain.connack.properties
    await bridge.subscribe("a", identifier=5)
    await plain.subscribe("a")
    made = (await door.hub.publish(LOCAL, [Outgoing("a", b"x")]))[0].id
    await door.hub.publish(LOCAL, [Outgoing("a", b"y", {"id": "own"})])
    first, second = await bridge.take(), await bridge.take()
    assert first.properties == {"subscription_ids": [5], "user": [("postroom-id", made)]}
    assert second.properties["user"] == [("postroom-id", "own")]
    assert "user" not in (await plain.take()).properties


async def test_what_is_in_no_log_has_no_id(door: Door) -> None:
    bridge, writer = await door.connect("b", user=[(ORIGIN, "theirs")]), await door.connect("w")
    await bridge.subscribe("a", qos=0)
    await writer.publish("a", "x", qos=0)
    assert "user" not in (await bridge.take()).properties
