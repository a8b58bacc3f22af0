"""What Postroom connects to by itself, as the configuration says: drop folders, webhooks and bridges. Floor 6."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from broker.config import Config
from broker.connectors.file.drop import DropFolder
from broker.connectors.file.figures import figures as drop_figures
from broker.connectors.file.options import DropOptions
from broker.connectors.mqtt_bridge.bridge import Bridge
from broker.connectors.mqtt_bridge.figures import figures as bridge_figures
from broker.connectors.mqtt_bridge.options import BridgeOptions
from broker.connectors.webhook.options import WebhookOptions
from broker.connectors.webhook.send import WebhookSender
from broker.hub import Hub
from broker.observe.metrics import Figures
from broker.tasks import Tasks


class Links:
    """Each is a task of its own among `tasks`. `webhooks` is the sender that is there now; a changed configuration
    brings another."""

    webhooks: WebhookSender

    def __init__(self, hub: Hub, tasks: Tasks) -> None:
        self._hub = hub
        self._tasks = tasks
        self._drops: dict[str, DropFolder] = {}
        self._bridges: dict[str, Bridge] = {}

    def start_webhooks(self, options: WebhookOptions) -> None:
        """Before the subscriptions that have some."""
        self.webhooks = WebhookSender(self._hub, options)
        self._tasks.keep("webhooks", self.webhooks.run)

    def start_drops(self, folders: Iterable[DropOptions]) -> None:
        """Watch these folders."""
        for options in folders:
            folder = self._drops[options.feed] = DropFolder(self._hub, options)
            self._tasks.keep(_drop_task(options.feed), folder.run)

    async def start_bridges(self, bridges: Iterable[BridgeOptions]) -> None:
        """Their queues are there when this returns, so that nothing that is published from now on is missed; they
        connect in their own time."""
        for options in bridges:
            bridge = self._bridges[options.name] = Bridge(self._hub, options)
            await bridge.prepare()
            self._tasks.keep(_bridge_task(options.name), bridge.run)

    async def take_up(self, old: Config, new: Config, changed: list[str]) -> None:
        """What is configured in another way begins anew; the rest goes on."""
        if "webhooks" in changed:
            before = self.webhooks
            await before.drain(old.grace / 1000)
            await self._tasks.end("webhooks")
            self._hub.checks.remove(before.check)  # only now: a webhook is never made unchecked
            self._hub.watchers.remove(before.sync)
            self.start_webhooks(new.webhooks)
        if "drop" in changed:
            for options in (o for o in old.drop if o not in new.drop):
                await self._tasks.end(_drop_task(options.feed))
                del self._drops[options.feed]
            self.start_drops(o for o in new.drop if o not in old.drop)
        if "mqtt_bridge" in changed:
            for bridge in (b for b in old.mqtt_bridge if b not in new.mqtt_bridge):
                await self._tasks.end(_bridge_task(bridge.name))
                del self._bridges[bridge.name]
            await self.start_bridges(b for b in new.mqtt_bridge if b not in old.mqtt_bridge)

    async def close_sources(self) -> None:
        """Nothing is brought in any more; what is in hand is carried on by the next start."""
        await self._tasks.end(*map(_drop_task, self._drops))
        for bridge in self._bridges.values():
            bridge.drain()

    async def secret(self, name: str) -> str:
        """What a subscription's webhooks are signed with. Raises what WebhookSender.secret does."""
        return await self.webhooks.secret(name)

    def status(self) -> dict[str, Any]:
        """What `/v1/status` says of them."""
        webhooks = {status.subscription: asdict(status) for status in self.webhooks.status()}
        drops = {feed: asdict(folder.status()) for feed, folder in self._drops.items()}
        bridges = {name: asdict(bridge.status()) for name, bridge in self._bridges.items()}
        return {"webhooks": webhooks, "drop": drops, "mqtt_bridge": bridges}

    def figures(self) -> list[Figures]:
        """The same for `/metrics`."""
        return [
            *self.webhooks.figures(),
            *drop_figures([folder.status() for folder in self._drops.values()]),
            *bridge_figures([bridge.status() for bridge in self._bridges.values()]),
        ]


def _drop_task(feed: str) -> str:
    return f"drop {feed}"


def _bridge_task(name: str) -> str:
    return f"bridge {name}"
