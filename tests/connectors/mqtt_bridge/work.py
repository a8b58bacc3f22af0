"""A bridge at work beside a test, on a real engine and with no wait between its connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from broker.auth.principal import LOCAL
from broker.connectors.mqtt_bridge.bridge import Bridge
from broker.connectors.mqtt_bridge.options import BridgeOptions
from broker.hub import Outgoing
from tests.connectors.mqtt_bridge.upstream import Upstream
from tests.connectors.world import Broker


class Sleeps:
    """Waits that take no time; how long they would have been."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0.001)


def options(upstream: Upstream, **more: Any) -> BridgeOptions:
    given = {
        "name": "b",
        "address": f"mqtt://127.0.0.1:{upstream.port}",
        "topics": [{"filter": "up/#", "direction": "out"}, {"filter": "down/#", "direction": "in"}],
    }
    return BridgeOptions.model_validate(given | more)


@asynccontextmanager
async def at_work(broker: Broker, chosen: BridgeOptions, sleeps: Sleeps | None = None) -> AsyncIterator[Bridge]:
    bridge = Bridge(broker.hub, chosen, broker.clock, lambda: 0.5, sleeps or Sleeps())
    await bridge.prepare()
    task = asyncio.create_task(bridge.run())
    try:
        yield bridge
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def publish(broker: Broker, *bodies: bytes, topic: str = "up/x", **more: Any) -> None:
    await broker.hub.publish(LOCAL, [Outgoing(topic, body, more or None) for body in bodies])
