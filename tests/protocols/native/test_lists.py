"""Lists of any length: in pages by name, and never an answer that no frame holds."""

from pathlib import Path
from typing import Any

import pytest

from broker.auth.principal import LOCAL
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.limits import Limits
from broker.protocols.native import wire
from broker.protocols.native.requests import Requests
from tests.engine.world import World, open_world
from tests.protocols.native.client import Wire, make

SMALL = Limits(max_body=1 << 10, max_frame=1 << 16)


def requests_of(world: World) -> Requests:
    return Requests(Hub(world.engine, SMALL, world.clock.wall, world.clock.monotonic), LOCAL)


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        for name in "cabd":
            await world.subscribe(name, f"t/{name}")
            await world.publish(f"t/{name}", "x")
        requests = requests_of(world)

        async def names(verb: str, **arguments: Any) -> list[str]:
            return [each["name"] for each in await requests.answer(verb, arguments)]

        assert await names("subscription.list") == ["a", "b", "c", "d"]
        assert await names("subscription.list", limit=2) == ["a", "b"]
        assert await names("subscription.list", limit=2, after="b") == ["c", "d"]
        assert await names("subscription.list", after="bb") == ["c", "d"]
        assert await names("topic.list", after="t/b", limit=1) == ["t/c"]
        for wrong in ({"limit": 0}, {"limit": "2"}, {"after": 5}):
            with pytest.raises(BrokerError):
                await names("subscription.list", **wrong)


async def test_a_peek_is_bounded_in_bytes_and_goes_on_after(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        await world.publish("jobs", *("x" * 1_000 for _ in range(100)))
        requests = requests_of(world)
        seen: list[int] = []
        while rows := await requests.answer(
            "queue.peek", {"name": "q", "limit": 100, "after": seen[-1] if seen else -1}
        ):
            assert 1 <= len(rows) <= 33  # half a frame
            seen += [row[0] for row in rows]
        assert seen == list(range(1, 101))


async def test_an_answer_that_no_frame_holds_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world, Hub(world.engine, SMALL, world.clock.wall, world.clock.monotonic))
        client.say([wire.HELLO, 1, {}])
        with pytest.raises(BrokerError, match=r"ask in pages, by limit and after") as caught:
            client.session.reply(1, ["x" * 100] * 1_000)
        assert caught.value.code is Code.BAD_OPTION
        client.session.reply(2, ["x" * 100] * 100)
        assert [frame[:2] for frame in client.heard] == [[wire.WELCOME, 1], [wire.REPLY, 2]]


async def test_there_are_so_many_subscriptions_and_no_more(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        requests = Requests(Hub(world.engine, Limits(max_subscriptions=2)), LOCAL)
        for name in "ab":
            await requests.answer("subscription.put", {"name": name, "topics": ("t",)})
        with pytest.raises(BrokerError, match=r"raise limits\.max_subscriptions"):
            await requests.answer("subscription.put", {"name": "c", "topics": ("t",)})
        await requests.answer("subscription.put", {"name": "a", "topics": ("t", "u")})
        await requests.answer("subscription.delete", {"name": "a"})
        await requests.answer("subscription.put", {"name": "c", "topics": ("t",)})
