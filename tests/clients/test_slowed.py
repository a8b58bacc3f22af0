"""A broker that slows us down: publishes wait for their answers, settles do not wait behind them, nothing is lost."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.limits import Limits
from tests.clients.world import Broker, client, until


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Broker]:
    broker = Broker(tmp_path / "data", Limits(publish_messages_per_second=200))
    await broker.start()
    yield broker
    await broker.stop()


async def test_publishes_are_slowed_and_settles_go_on(slow: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postroom_client")
    async with client(slow.url) as b:
        await b.put_subscription("q", "work")
        for i in range(600):
            await b.publish_soon("work", b"%d" % i)
        consumed = 0
        async for message in b.consume("q"):
            await message.settle("ack")
            consumed += 1
            if consumed == 150:
                break
        await b.flush()
        for i in range(200):
            await b.publish_soon("work", b"%d" % (600 + i))
        await b.flush()
        bodies = [m.body for m in (await b.read("work", limit=1000)).messages]
        assert bodies == [b"%d" % i for i in range(800)]
        await until(lambda: any("full speed again" in r.getMessage() for r in caplog.records))
    told = [r.getMessage() for r in caplog.records if "slows our publishing" in r.getMessage()]
    assert len(told) == 1
    assert "limits.publish_messages_per_second" in told[0]
