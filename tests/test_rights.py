"""The hub asks one question for everything, asks again when grants change, and tells nothing to who may not ask."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker import listing
from broker.auth.grant import Verb, on_topic, parse_grant
from broker.auth.principal import BROKER, LOCAL, Principal
from broker.core.errors import BrokerError, Code
from broker.core.position import EARLIEST, LATEST
from broker.core.spec import parse_spec
from broker.core.subscription import Kind, Outcome, Spec
from broker.engine.base import Set, Settle, Unit
from broker.hub import MAX_FILTERS, Hub, Outgoing
from broker.limits import Limits
from tests.engine.world import Worker, World, open_world
from tests.protocols.native.client import make


def ann(*grants: str) -> Principal:
    return Principal("ann", tuple(map(parse_grant, grants)))


def regrant(hub: Hub, principal: Principal, *grants: str) -> None:
    """What the directory does when grants change."""
    principal.regrant(tuple(map(parse_grant, grants)))
    hub.regranted(principal)


def hub_of(world: World) -> Hub:
    return Hub(world.engine, Limits(), world.clock.wall)


def attached(hub: Hub, principal: Principal, name: str) -> Worker:
    worker = Worker()
    worker.tie = hub.attach(principal, name, worker)
    worker.tie.grant(100, 1 << 20)
    return worker


def followed(hub: Hub, principal: Principal, *filters: str) -> Worker:
    worker = Worker()
    worker.tie = hub.follow(principal, filters, LATEST, worker)
    worker.tie.grant(100, 1 << 20)
    return worker


Try = Callable[[Hub, Principal], Awaitable[object]]


async def _attach(hub: Hub, who: Principal) -> None:
    hub.attach(who, "q", Worker())


async def _tap(hub: Hub, who: Principal) -> None:
    hub.tap(who, ["jobs"], Worker())


async def _follow(hub: Hub, who: Principal) -> None:
    hub.follow(who, ["jobs"], EARLIEST, Worker())


async def _get(hub: Hub, who: Principal) -> None:
    hub.subscription(who, "q")


async def _dead(hub: Hub, who: Principal) -> None:
    await hub.read(who, ["$dead/q"], EARLIEST, 1)


TRIES: dict[str, tuple[str, Try]] = {
    "publish": ("publish jobs", lambda hub, who: hub.publish(who, [Outgoing("jobs", b"x")])),
    "schedule": ("publish jobs", lambda hub, who: hub.publish(who, [Outgoing("jobs", b"x", {"delay": 1000})])),
    "settle": ("consume subscription:q", lambda hub, who: hub.settle(who, [Settle("q", Outcome.ACK, 1)])),
    "unit": (
        "consume subscription:q",
        lambda hub, who: hub.publish(who, [], settles=[Settle("q", Outcome.ACK, 1)]),
    ),
    "attach": ("consume subscription:q", _attach),
    "get": ("manage subscription:q", _get),
    "delete": ("manage subscription:q", lambda hub, who: hub.delete_subscription(who, "q")),
    "follow": ("consume jobs", _follow),
    "tap": ("consume jobs", _tap),
    "read": ("consume jobs", lambda hub, who: hub.read(who, ["jobs"], EARLIEST, 1)),
    "dead letters": ("consume $dead/q", _dead),
    "key": ("consume key:k", lambda hub, who: hub.get_key(who, "k")),
}
OTHERS = (
    "publish other/#, consume other/#, manage other/#, consume subscription:other, manage subscription:other,"
    " consume key:other, manage key:other"
)


@pytest.mark.parametrize("name", TRIES)
@pytest.mark.parametrize("grants", ["", OTHERS])
async def test_what_is_not_granted_is_refused_without_effect_and_tells_nothing(
    tmp_path: Path, name: str, grants: str
) -> None:
    """The refusal is the same, word for word, whether the thing is there or not."""
    _, attempt = TRIES[name]
    said: list[str] = []
    for there in (True, False):
        async with open_world(tmp_path / str(there), make) as world:
            hub = hub_of(world)
            if there:
                await world.subscribe("q", "jobs")
                await world.publish("jobs", "1")
                await world.commit(Unit(sets=[Set("k", b"v")]))
            stats = world.engine.stats()
            with pytest.raises(BrokerError) as refusal:
                await attempt(hub, ann(*filter(None, grants.split(", "))))
            assert refusal.value.code is Code.FORBIDDEN
            said.append(refusal.value.text)
            await world.quiet()
            assert world.engine.stats().committed_messages == stats.committed_messages
            assert world.engine.stats().scheduled == 0
            if there:
                assert (world.info().ready, world.info().consumers) == (1, 0)
    assert said[0] == said[1]


@pytest.mark.parametrize("name", TRIES)
async def test_the_grant_that_a_refusal_names_is_the_one_that_helps(tmp_path: Path, name: str) -> None:
    grant, attempt = TRIES[name]
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        await world.publish("jobs", "1")
        await attempt(hub_of(world), ann(grant))


async def test_a_subscription_is_made_by_who_may_manage_it_and_read_its_topics(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub, spec = hub_of(world), parse_spec("q", {"topics": ["a/#", "b"]})
        for grants in (
            ["manage subscription:q", "consume a/#"],
            ["consume #"],
            ["manage subscription:q", "consume a/+"],
        ):
            with pytest.raises(BrokerError) as refusal:
                await hub.put_subscription(ann(*grants), spec)
            assert refusal.value.code is Code.FORBIDDEN
        assert not world.engine.subscriptions()
        assert await hub.put_subscription(ann("manage subscription:*", "consume a/#", "consume b"), spec)


async def test_a_queue_of_mqtt_is_deleted_by_that_door_alone(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        await hub.put_own(Spec("mqtt/client", Kind.QUEUE, ("a",)))
        with pytest.raises(BrokerError, match="MQTT door's own") as refusal:
            await hub.delete_subscription(LOCAL, "mqtt/client")
        assert refusal.value.code is Code.FORBIDDEN
        assert world.engine.subscriptions()


async def test_lists_show_what_one_may_see(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        for name in ("mine", "other"):
            await world.subscribe(name, f"{name}/#")
            await world.publish(f"{name}/a", "x")
        await world.commit(Unit(sets=[Set("mine/k", b""), Set("other/k", b""), Set("auth/x", b"")]))
        for topic in ("mine/a", "other/a"):
            await hub.publish(LOCAL, [Outgoing(topic, b"x", {"delay": 60_000, "id": topic})])
        who = ann("consume mine/#", "manage mine/#", "consume subscription:mine", "consume key:mine/*")
        assert [info.name for info in await hub.topics(who)] == ["mine/a"]
        assert [info.spec.name for info in await hub.subscriptions(who)] == ["mine"]
        assert await hub.keys(who, "") == ["mine/k"]
        assert [item.id for item in await hub.scheduled(who, 1)] == ["mine/a"]
        assert (
            len(await hub.topics(LOCAL))
            == len(await hub.subscriptions(LOCAL))
            == len(await hub.scheduled(LOCAL, 9))
            == 2
        )
        assert await hub.keys(LOCAL, "") == ["mine/k", "other/k"]


async def test_long_lists_come_in_pages_and_what_goes_meanwhile_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PIECE", 3)
    monkeypatch.setattr(listing, "DESCRIBED", 2)
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        for i in range(20):
            name = f"{'mine' if i % 2 else 'other'}{i * 7 % 20:02}"
            await world.subscribe(name, f"{name}/#")
            await world.publish(f"{name}/a", "x")
        who = ann("consume subscription:mine*", *(f"consume mine{i:02}/a" for i in range(20)))
        mine = [f"mine{i:02}" for i in range(1, 20, 2)]
        assert [info.spec.name for info in await hub.subscriptions(who)] == mine
        assert [info.name for info in await hub.topics(who)] == [f"{name}/a" for name in mine]
        assert [info.spec.name for info in await hub.subscriptions(who, "mine05", 2)] == ["mine07", "mine09"]
        assert [info.name for info in await hub.topics(who, "mine05/a", 2)] == ["mine07/a", "mine09/a"]
        page = asyncio.create_task(hub.subscriptions(who, None, 6))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        deleting = asyncio.create_task(world.engine.delete_subscription("mine01"))
        assert [info.spec.name for info in await page] == mine[1:7]
        await deleting


async def test_keys_are_listed_in_pieces_past_what_is_not_to_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.hub.KEYS_AT_ONCE", 3)
    async with open_world(tmp_path / "data", make) as world:
        hub, engine = hub_of(world), world.engine
        names = [f"{part}/{i}" for part in ("a", "mqtt/x", "mine", "z", "zz") for i in range(7)]
        await world.commit(Unit(sets=[Set(name, b"") for name in names]))
        asked: list[str] = []
        look = engine.keys

        async def noted(prefix: str, *more: Any) -> list[str]:
            asked.append(prefix)
            return await look(prefix, *more)

        monkeypatch.setattr(engine, "keys", noted)
        open_to_all = sorted(name for name in names if not name.startswith("mqtt/"))
        assert await hub.keys(LOCAL, "") == open_to_all
        assert await hub.keys(LOCAL, "", "a/5", 3) == ["a/6", "mine/0", "mine/1"]
        assert await hub.keys(LOCAL, "mqtt/") == []
        who = ann("consume key:zz/*", "manage key:zz/1*", "consume key:mine/*", "consume key:a/3", "consume #")
        asked.clear()
        assert await hub.keys(who, "") == ["a/3", *(f"mine/{i}" for i in range(7)), *(f"zz/{i}" for i in range(7))]
        assert await hub.keys(who, "mine/", "mine/4") == ["mine/5", "mine/6"]
        assert await hub.keys(who, "z", None, 2) == ["zz/0", "zz/1"]
        assert set(asked) == {"a/3", "mine/", "zz/"}
        asked.clear()
        assert await hub.keys(ann("consume #"), "") == asked == []


async def test_only_who_may_manage_its_topic_cancels_a_scheduled_message(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        await hub.publish(LOCAL, [Outgoing("a", b"x", {"delay": 60_000, "id": "i"})])
        await hub.publish(LOCAL, [Outgoing("b", b"x", {"delay": 60_000, "id": "i"})])
        assert not await hub.cancel(ann("manage c", "consume #"), "i")
        assert world.engine.stats().scheduled == 2
        assert await hub.cancel(ann("manage a"), "i")
        assert [item.topic for item in await hub.scheduled(LOCAL, 9)] == ["b"]


@pytest.mark.parametrize("key", ["auth/ann", "webhook/x", "drop/y"])
async def test_the_brokers_own_keys_are_nobodys(tmp_path: Path, key: str) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        await world.commit(Unit(sets=[Set(key, b"secret")]))
        for who in (LOCAL, ann("admin")):
            with pytest.raises(BrokerError) as refusal:
                await hub.get_key(who, key)
            assert refusal.value.code is Code.FORBIDDEN
            with pytest.raises(BrokerError):
                hub.check_key(who, key, b"mine")
            assert await hub.keys(who, "") == []


async def test_who_reads_by_more_filters_than_make_sense_is_refused_before_they_are_looked_at(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub, who, many = hub_of(world), ann("consume #", "consume subscription:q"), ["$bad"] * (MAX_FILTERS + 1)
        await world.subscribe("q", "jobs")
        works: list[Callable[[], object]] = [
            lambda: hub.follow(who, many, EARLIEST, Worker()),
            lambda: hub.tap(who, many, Worker()),
            lambda: hub.attach(who, "q", Worker(), many),
        ]
        for work in works:
            with pytest.raises(BrokerError, match=f"at most {MAX_FILTERS} topic filters"):
                work()
        with pytest.raises(BrokerError, match=f"at most {MAX_FILTERS} topic filters"):
            await hub.read(who, many, EARLIEST, 1)
        hub.follow(who, [f"a/{i}" for i in range(MAX_FILTERS)], EARLIEST, Worker()).detach()
        hub.follow(BROKER, [f"a/{i}" for i in range(MAX_FILTERS + 1)], EARLIEST, Worker()).detach()


# Rights that go


async def test_a_reader_whose_grant_goes_is_ended_at_once_and_gets_nothing_more(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        await world.subscribe("q", "jobs")
        who = ann("consume subscription:q", "consume jobs", "consume other")
        worker, gone, stays = attached(hub, who, "q"), followed(hub, who, "jobs"), followed(hub, who, "other")
        await world.publish("jobs", "1")
        await world.quiet()
        assert (len(worker.offsets), len(gone.offsets)) == (1, 1)
        regrant(hub, who, "consume other")
        assert [e.code for e in worker.errors] == [e.code for e in gone.errors] == [Code.FORBIDDEN]
        assert "postroom grant add ann consume subscription:q" in worker.errors[0].text
        await world.publish("jobs", "2")
        await world.publish("other", "3")
        await world.quiet()
        assert (len(worker.offsets), len(gone.offsets), len(stays.offsets)) == (1, 1, 1)
        assert not stays.errors
        assert (world.info().ready, world.info().leased, world.info().consumers) == (2, 0, 0)
        regrant(hub, who)
        assert len(stays.errors) == 1
        assert len(worker.errors) == 1


async def test_a_narrower_grant_ends_a_wider_reader(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        who = ann("consume a/#")
        wide, narrow = followed(hub, who, "a/#"), followed(hub, who, "a/b")
        regrant(hub, who, "consume a/+")
        assert wide.errors
        assert not narrow.errors


async def test_a_principal_that_lost_its_grant_publishes_no_more(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        who = ann("publish jobs")
        await hub.publish(who, [Outgoing("jobs", b"1")])
        regrant(hub, who, "publish other")
        with pytest.raises(BrokerError) as refusal:
            await hub.publish(who, [Outgoing("jobs", b"2")])
        assert refusal.value.code is Code.FORBIDDEN
        assert await world.log("jobs") == ["1"]


async def test_readers_that_ended_by_themselves_are_forgotten(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        await world.subscribe("q", "jobs")
        who = ann("consume subscription:q", "consume jobs")
        left, deleted = followed(hub, who, "jobs"), attached(hub, who, "q")
        left.tie.detach()
        left.tie.detach()
        await world.engine.delete_subscription("q")
        assert len(deleted.errors) == 1
        assert len(hub._holds) == 0
        regrant(hub, who)
        assert not left.errors
        assert len(deleted.errors) == 1


async def test_something_held_is_told_when_its_right_goes(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = hub_of(world)
        who = ann("consume a", "consume b")
        told: list[BrokerError] = []
        with hub.hold(who, Verb.CONSUME, on_topic("a"), told.append):
            regrant(hub, who, "consume b")
            assert [error.code for error in told] == [Code.FORBIDDEN]
        with hub.hold(who, Verb.CONSUME, on_topic("b"), told.append):
            pass
        regrant(hub, who)
        assert len(told) == 1
        with pytest.raises(BrokerError):
            hub.hold(who, Verb.CONSUME, on_topic("b"), told.append)


async def test_one_whose_end_fails_saves_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: BrokerError) -> None:
        raise RuntimeError("its socket is gone")

    async with open_world(tmp_path / "data", make) as world:
        hub, who, told = hub_of(world), ann("consume a"), list[BrokerError]()
        for end in (told.append, fail, told.append):
            hub.hold(who, Verb.CONSUME, on_topic("a"), end)
        regrant(hub, who)
        assert len(told) == 2
        assert len(hub._holds) == 0
        assert "could not be told so" in caplog.text
