"""The audit trail: every verb that changes the broker leaves an entry, what was refused too; nothing waits for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from broker.auth.grant import parse_grant
from broker.auth.principal import LOCAL, Principal
from broker.core.errors import BrokerError, Code
from broker.core.position import EARLIEST
from broker.core.spec import parse_spec
from broker.hub import Hub, Outgoing
from broker.limits import Limits
from broker.observe.audit import DENIED_PER_SECOND, TOPIC
from broker.observe.origin import ORIGIN, Asked
from tests.engine.world import World, open_world
from tests.protocols.native.client import make

ANN = Principal("ann", (parse_grant("consume #"),))


@asynccontextmanager
async def audited(folder: Path) -> AsyncIterator[tuple[World, Hub]]:
    async with open_world(folder / "data", make) as world:
        yield world, Hub(world.engine, Limits(), world.clock.wall, world.clock.monotonic, audit=True)


async def entries(hub: Hub, principal: Principal = LOCAL) -> list[dict[str, Any]]:
    await hub.publish(LOCAL, [Outgoing("behind/them", b"")])  # one sender after the other: they are on disk now
    page = await hub.read(principal, [TOPIC], EARLIEST, 1_000)
    return [json.loads(row[4]) for row in page.rows]


Verb = Callable[[Hub, Principal], Awaitable[object]]
SPEC = parse_spec("q", {"topics": ["jobs"]})
VERBS: dict[str, Verb] = {
    "queue.pause": lambda hub, who: hub.pause(who, "q", paused=True),
    "queue.resume": lambda hub, who: hub.pause(who, "q", paused=False),
    "queue.purge": lambda hub, who: hub.purge(who, "q"),
    "queue.redrive": lambda hub, who: hub.redrive(who, "q", 10),
    "queue.purge_dead": lambda hub, who: hub.purge_dead(who, "q", 10),
    "subscription.put": lambda hub, who: hub.put_subscription(who, SPEC),
    "subscription.delete": lambda hub, who: hub.delete_subscription(who, "q"),
}


async def test_every_verb_leaves_an_entry_of_who_where_and_what_came_of_it(tmp_path: Path) -> None:
    async with audited(tmp_path) as (_, hub):
        await hub.put_subscription(LOCAL, SPEC)
        ORIGIN.set(Asked("http", "10.0.0.7", "r-1"))
        for work in VERBS.values():
            await work(hub, LOCAL)
        first, *found = await entries(hub)
        assert (first["verb"], first["outcome"], first["door"]) == ("subscription.put", "created", "")
        assert first["settings"]["topics"] == ["jobs"]
        assert [entry["verb"] for entry in found] == list(VERBS)
        for entry in found:
            assert (entry["principal"], entry["door"], entry["address"]) == ("local", "http", "10.0.0.7")
            assert (entry["resource"], entry["request_id"]) == ("q", "r-1")
            assert entry["outcome"] == ("changed" if entry["verb"] == "subscription.put" else "done")
            assert entry["at"].endswith("Z")
        assert [entry.get("count") for entry in found] == [None, None, 0, 0, 0, None, None]


@pytest.mark.parametrize("verb", VERBS)
async def test_what_was_denied_leaves_an_entry_too(tmp_path: Path, verb: str) -> None:
    async with audited(tmp_path) as (_, hub):
        await hub.put_subscription(LOCAL, SPEC)
        with pytest.raises(BrokerError) as refused:
            await VERBS[verb](hub, ANN)
        assert refused.value.code is Code.FORBIDDEN
        last = (await entries(hub))[-1]
        assert (last["principal"], last["verb"], last["resource"], last["outcome"]) == ("ann", verb, "q", "denied")


async def test_what_failed_says_how(tmp_path: Path) -> None:
    async with audited(tmp_path) as (_, hub):
        with pytest.raises(BrokerError):
            await hub.delete_subscription(LOCAL, "nowhere")
        assert not await hub.cancel(LOCAL, "nothing")
        gone, cancelled = await entries(hub)
        assert (gone["outcome"], cancelled["verb"], cancelled["outcome"]) == (
            "unknown_subscription",
            "schedule.cancel",
            "not_found",
        )


async def test_an_interrupted_one_is_of_unknown_outcome(tmp_path: Path) -> None:
    async with audited(tmp_path) as (_, hub):
        with pytest.raises(asyncio.CancelledError), hub.audited(LOCAL, "queue.purge", "q"):
            raise asyncio.CancelledError
        assert (await entries(hub))[-1]["outcome"] == "unknown"


async def test_a_flood_of_refusals_is_bounded_and_counted(tmp_path: Path) -> None:
    async with audited(tmp_path) as (world, hub):
        for _ in range(3 * DENIED_PER_SECOND):
            with pytest.raises(BrokerError):
                await hub.purge(ANN, "x" * 100_000)
        assert len(found := await entries(hub)) == DENIED_PER_SECOND
        assert len(found[0]["resource"]) == 500
        await world.advance(1.5)
        with pytest.raises(BrokerError):
            await hub.purge(ANN, "q")
        assert (await entries(hub))[-1]["left_out"] == 2 * DENIED_PER_SECOND


async def test_secrets_are_not_in_it(tmp_path: Path) -> None:
    async with audited(tmp_path) as (_, hub):
        webhook = {"url": "https://example.com/", "secret": "whsec_" + "A" * 32, "headers": {"X-Key": "hush"}}
        await hub.put_subscription(LOCAL, parse_spec("hook", {"topics": ["a"], "webhook": webhook}))
        (entry,) = await entries(hub)
        assert "AAAA" not in json.dumps(entry)
        assert "hush" not in json.dumps(entry)


async def test_nobody_but_the_broker_writes_it_and_grants_on_other_topics_do_not_show_it(tmp_path: Path) -> None:
    async with audited(tmp_path) as (_, hub):
        with pytest.raises(BrokerError, match="the broker's own"):
            await hub.publish(LOCAL, [Outgoing(TOPIC, b"{}")])
        with pytest.raises(BrokerError, match="ann may not consume"):
            await entries(hub, ANN)
        assert await entries(hub, Principal("auditor", (parse_grant(f"consume {TOPIC}"),))) == []


async def test_an_entry_that_cannot_be_stored_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with audited(tmp_path) as (world, hub):
        cast(Any, world.engine).fail(OSError("the disk is gone"))
        hub.record(LOCAL, "daemon.stop", "")
        assert caplog.messages[-1] == "an entry of the audit trail could not be stored"
        assert caplog.records[-1].__dict__["entry"]["verb"] == "daemon.stop"


async def test_a_hub_without_a_trail_writes_none(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        hub = Hub(world.engine, Limits(), world.clock.wall)
        await hub.put_subscription(LOCAL, SPEC)
        assert await entries(hub) == []
