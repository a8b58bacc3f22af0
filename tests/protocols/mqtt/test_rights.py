"""With [auth]: who a client is, and what it may do; every refusal says so in the words of its version."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.auth.directory import Directory
from broker.auth.doorkeeper import Strict
from broker.auth.grant import parse_grant
from broker.auth.options import AuthOptions
from broker.auth.principal import LOCAL
from broker.core.position import EARLIEST
from broker.engine.keyspace import Keyspace
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.packets import V5, V311, Connack, Connect, Disconnect, Publish, Will
from tests.protocols.mqtt.door import Client, Door, open_door


@dataclass
class Guarded:
    door: Door
    directory: Directory
    tokens: dict[str, bytes]

    async def connect(self, name: str, version: int = V5, client_id: str = "", **options: object) -> Client:
        return await self.door.connect(client_id or name, version, username=name, password=self.tokens[name], **options)

    async def grant(self, name: str, *grants: str) -> None:
        await self.directory.add_grants(name, tuple(map(parse_grant, grants)))

    async def revoke(self, name: str, grant: str) -> None:
        await self.directory.remove_grant(name, parse_grant(grant))


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with open_door(tmp_path) as door:
        directory = Directory(Keyspace(door.world.engine, "auth/"), door.world.clock.wall)
        directory.regranted.append(door.hub.regranted)
        strict = Strict(directory, AuthOptions(), lambda: 0.0)
        door.server.doorkeeper = door.doorkeeper = strict
        door.principal_of = directory.principal
        tokens: dict[str, bytes] = {}
        for name, grants in (
            ("ann", ("publish a/#", "consume a/#")),
            ("bob", ("consume a/b",)),
        ):
            tokens[name] = (await directory.create_token(name))[0].encode()
            await directory.add_grants(name, tuple(map(parse_grant, grants)))
        yield Guarded(door, directory, tokens)
        strict.close()


@pytest.mark.parametrize(
    ("version", "given", "reason"),
    [
        (V5, None, Reason.NOT_AUTHORIZED),
        (V311, None, Reason.NOT_AUTHORIZED),
        (V5, b"wrong", Reason.BAD_USER_NAME_OR_PASSWORD),
        (V311, b"wrong", Reason.BAD_USER_NAME_OR_PASSWORD),
    ],
)
@pytest.mark.statement("MQTT-3.1.4-2", "MQTT-4.13.2-1")
async def test_who_does_not_prove_who_it_is_is_refused(
    guarded: Guarded, version: int, given: bytes | None, reason: Reason
) -> None:
    client = await guarded.door.dial(version)
    client.write(Connect(version, "c", username="ann" if given else None, password=given), Publish("a/b", b"x"))
    assert (await client.hear(Connack)).reason is reason
    await client.closed()


async def test_a_password_does_as_well_as_a_token(guarded: Guarded) -> None:
    strict = guarded.door.server.doorkeeper
    assert isinstance(strict, Strict)
    await guarded.directory.set_password("ann", await strict.passwords.hash("correct horse"))
    client = await guarded.door.connect("c", username="ann", password=b"correct horse")
    assert await client.publish("a/b", "x") is Reason.SUCCESS


async def test_what_is_not_granted_is_refused(guarded: Guarded) -> None:
    ann, bob = await guarded.connect("ann"), await guarded.connect("bob")
    assert (await bob.subscribe("a/b", "a/#", "$share/g/a/c")).reasons == (
        *(Reason.GRANTED_QOS_1, Reason.NOT_AUTHORIZED, Reason.NOT_AUTHORIZED),
    )
    for qos in (1, 2):
        assert await bob.publish("a/b", "no", qos) is Reason.NOT_AUTHORIZED
    assert await ann.publish("a/b", "yes") is Reason.SUCCESS
    assert await ann.publish("b", "no") is Reason.NOT_AUTHORIZED
    assert (await bob.take()).payload == b"yes"
    await bob.nothing()


async def test_an_older_client_is_let_go_rather_than_told_a_lie(guarded: Guarded) -> None:
    bob = await guarded.connect("bob", V311)
    assert (await bob.subscribe("a/#")).reasons == (Reason.UNSPECIFIED_ERROR,)
    bob.write(Publish("a/b", b"no", 0))
    await bob.ping()
    bob.write(Publish("a/b", b"no", 1, packet_id=1))
    await bob.closed()
    assert not bob.heard


async def test_a_will_needs_the_right_to_publish_it(guarded: Guarded) -> None:
    client = await guarded.door.dial()
    will = Will("a/b", b"")
    client.write(Connect(V5, "c", username="bob", password=guarded.tokens["bob"], will=will))
    assert (await client.hear(Connack)).reason is Reason.NOT_AUTHORIZED


async def test_a_session_is_its_principals(guarded: Guarded) -> None:
    ann = await guarded.connect("ann", client_id="c", clean=False, expiry=100)
    client = await guarded.door.dial()
    client.write(Connect(V5, "c", username="bob", password=guarded.tokens["bob"]))
    assert (await client.hear(Connack)).reason is Reason.NOT_AUTHORIZED
    await ann.ping()


async def test_a_right_that_goes_ends_the_connection_and_the_subscription(guarded: Guarded) -> None:
    bob = await guarded.connect("bob", clean=False, expiry=100)
    await bob.subscribe("a/b")
    await guarded.directory.remove_grant("bob", parse_grant("consume a/b"))
    assert (await bob.hear(Disconnect)).reason is Reason.NOT_AUTHORIZED
    await bob.closed()
    ann = await guarded.connect("ann")
    await ann.publish("a/b", "secret")
    bob = await guarded.connect("bob", clean=False, expiry=100, present=True)
    await bob.nothing()
    assert not guarded.door.hub.engine.subscriptions()


async def test_what_is_delivered_to_a_group_needs_the_right_as_well(guarded: Guarded) -> None:
    bob = await guarded.connect("bob")
    await bob.subscribe("$share/g/a/b")
    await guarded.directory.remove_grant("bob", parse_grant("consume a/b"))
    assert (await bob.hear(Disconnect)).reason is Reason.NOT_AUTHORIZED
    await asyncio.sleep(0.01)
    await guarded.door.server.sessions.stop()
    assert not guarded.door.hub.engine.subscriptions()


async def test_nobody_takes_the_will_of_another_principal_away(guarded: Guarded) -> None:
    door = guarded.door
    await guarded.connect("ann", client_id="c", will=Will("a/will", b"bye", 1))
    await door.crash()
    await guarded.connect("bob", client_id="c")
    await door.world.quiet()
    assert [row[4] for row in (await door.hub.read(LOCAL, ["a/will"], EARLIEST, 10)).rows] == [b"bye"]


async def test_each_device_of_a_principal_reaches_its_own_place_only(guarded: Guarded) -> None:
    """At will, publish, subscribe and delivery; before a crash and after it; and what it calls itself opens nothing."""
    door, directory = guarded.door, guarded.directory
    await directory.add_grants("bob", (parse_grant("publish dev/%c/#"), parse_grant("consume dev/%c/#")))
    one = await guarded.connect("bob", client_id="one", expiry=100, will=Will("dev/one/will", b"bye", 1))
    assert await one.publish("dev/one/up") is Reason.SUCCESS
    assert await one.publish("dev/two/up") is Reason.NOT_AUTHORIZED
    assert (await one.subscribe("dev/one/#", "dev/two/#", "dev/+/#", "a/b")).reasons == (
        Reason.GRANTED_QOS_1,
        Reason.NOT_AUTHORIZED,
        Reason.NOT_AUTHORIZED,
        Reason.GRANTED_QOS_1,
    )
    for nasty in ("+", "#", "one/up", "$SYS"):
        client = await guarded.connect("bob", client_id=nasty)
        refused = (await client.subscribe("dev/one/#", "dev/+/#", "dev/#", "$SYS/#")).reasons
        assert refused == (Reason.NOT_AUTHORIZED,) * 4
        assert await client.publish("dev/one/up") is Reason.NOT_AUTHORIZED
    stranger = await door.dial()
    will = Will("dev/one/will", b"")
    stranger.write(Connect(V5, "three", username="bob", password=guarded.tokens["bob"], will=will))
    assert (await stranger.hear(Connack)).reason is Reason.NOT_AUTHORIZED
    await door.crash()
    await door.advance(6)
    one = await guarded.connect("bob", client_id="one", clean=False, expiry=100, present=True)
    assert (await one.take()).topic == "dev/one/will"


async def test_a_grant_for_each_client_that_goes_ends_what_it_alone_allowed(guarded: Guarded) -> None:
    grant = parse_grant("consume dev/%c")
    await guarded.directory.add_grants("bob", (grant,))
    one = await guarded.connect("bob", client_id="one")
    await one.subscribe("dev/one")
    await guarded.directory.remove_grant("bob", grant)
    assert (await one.hear(Disconnect)).reason is Reason.NOT_AUTHORIZED


async def test_a_grant_for_each_client_helps_who_is_connected_already(guarded: Guarded) -> None:
    one = await guarded.connect("bob", client_id="one")
    assert await one.publish("dev/one") is Reason.NOT_AUTHORIZED
    await guarded.directory.add_grants("bob", (parse_grant("publish dev/%c"),))
    assert await one.publish("dev/one") is Reason.SUCCESS
