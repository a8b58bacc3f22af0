"""What Postroom connects to by itself, as the configuration says: drop folders and webhooks. Floor 6."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from broker.config import Config
from broker.connectors.file.drop import DropFolder
from broker.connectors.file.figures import figures as drop_figures
from broker.connectors.file.options import DropOptions
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

    def start_webhooks(self, options: WebhookOptions) -> None:
        """Before the subscriptions that have some."""
        self.webhooks = WebhookSender(self._hub, options)
        self._tasks.keep("webhooks", self.webhooks.run)

    def start_drops(self, folders: Iterable[DropOptions]) -> None:
        """Watch these folders."""
        for options in folders:
            folder = self._drops[options.feed] = DropFolder(self._hub, options)
            self._tasks.keep(_task(options.feed), folder.run)

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
                await self._tasks.end(_task(options.feed))
                del self._drops[options.feed]
            self.start_drops(o for o in new.drop if o not in old.drop)

    async def close_sources(self) -> None:
        """Nothing is brought in any more; what is in hand is carried on by the next start."""
        await self._tasks.end(*map(_task, self._drops))

    async def secret(self, name: str) -> str:
        """What a subscription's webhooks are signed with. Raises what WebhookSender.secret does."""
        return await self.webhooks.secret(name)

    def status(self) -> dict[str, Any]:
        """What `/v1/status` says of them."""
        webhooks = {status.subscription: asdict(status) for status in self.webhooks.status()}
        return {"webhooks": webhooks, "drop": {feed: asdict(folder.status()) for feed, folder in self._drops.items()}}

    def figures(self) -> list[Figures]:
        """The same for `/metrics`."""
        return [*self.webhooks.figures(), *drop_figures([folder.status() for folder in self._drops.values()])]


def _task(feed: str) -> str:
    return f"drop {feed}"
