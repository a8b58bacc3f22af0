"""The webhook sender: finds the subscriptions that have a URL and keeps one endpoint at work for each.

The engine's list of subscriptions is the truth: the hub says when it changed, and a slow look makes sure. So a
restart goes on where the last daemon stopped, and a URL that is wrong stops only its own subscription. It leaves the
requests to the endpoints and the secrets of endpoints without one to the engine's key/value. Floor 4.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable

from broker.auth.principal import BROKER
from broker.connectors.webhook.endpoint import Endpoint, EndpointStatus, Slots, Surroundings
from broker.connectors.webhook.options import Target, WebhookOptions, parse_target
from broker.connectors.webhook.poster import Poster
from broker.connectors.webhook.signing import format_secret, parse_secret
from broker.core.errors import BrokerError, Code
from broker.core.subscription import Kind, Spec
from broker.engine.base import Set
from broker.hub import Hub
from broker.observe.metrics import Figures, counter, gauge

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two looks at what each endpoint is due."""

LOOK = 15.0
"""Seconds between two looks at the list of subscriptions, when nobody said that it changed: with many it costs."""

_SECRET_BYTES = 32


class WebhookSender:
    """See the module. `run` is its task; `wall` and `monotonic` are clocks in seconds, `chance` draws from [0, 1)."""

    def __init__(
        self,
        hub: Hub,
        options: WebhookOptions,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._hub = hub
        self._options = options
        self._poster = Poster(options, wall, monotonic)
        self._around = Surroundings(hub, self._poster, Slots(options.max_connections), monotonic, chance)
        self._endpoints: dict[str, Endpoint] = {}
        self._broken: dict[str, EndpointStatus] = {}
        self._changed = asyncio.Event()
        self._draining = False
        hub.checks.append(self.check)
        hub.watchers.append(self.sync)

    def check(self, spec: Spec) -> None:
        """Is this a subscription that can be sent? The hub asks before it makes one. Raises BAD_OPTION."""
        if spec.sink is None:
            return
        if spec.kind is not Kind.QUEUE:
            raise BrokerError(Code.BAD_OPTION, 'webhook needs kind "queue": a message must be settled when it is taken')
        parse_target(spec.sink, self._options)

    def sync(self) -> None:
        """Subscriptions may have changed; the task looks soon. The hub says so after each change."""
        self._changed.set()

    async def run(self) -> None:
        """Send until cancelled or drained; then requests under way are dropped and their messages are ready again."""
        self._poster.open()
        look_at = self._around.monotonic()
        try:
            while not self._draining:
                now = self._around.monotonic()
                if self._changed.is_set() or now >= look_at or self._any_detached():
                    self._changed.clear()
                    look_at = now + LOOK
                    await self.reconcile()
                self.tick()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK):  # wait_for would swallow a cancel that meets a change
                        await self._changed.wait()
        finally:
            await self._close_endpoints(0)
            await self._poster.close()

    async def drain(self, grace: float) -> None:
        """For good: take no more messages, give those under way `grace` seconds to be answered, let go of the rest."""
        self._draining = True
        await self._close_endpoints(grace)

    async def _close_endpoints(self, grace: float) -> None:
        endpoints, self._endpoints = list(self._endpoints.values()), {}
        await asyncio.gather(*(endpoint.close(grace) for endpoint in endpoints))

    def tick(self) -> None:
        """Go on with the endpoints whose pause is over."""
        for endpoint in self._endpoints.values():
            endpoint.tick()

    def _any_detached(self) -> bool:
        return any(endpoint.detached_by is not None for endpoint in self._endpoints.values())

    async def reconcile(self) -> None:
        """Make the endpoints what the subscriptions say; one that fails does not stop the others."""
        wanted = {spec.name: spec for spec in self._hub.engine.specs() if spec.sink is not None}
        for name in [n for n in self._endpoints if n not in wanted or self._endpoints[n].detached_by is not None]:
            await self._endpoints.pop(name).close()
        for name in [n for n in self._broken if n not in wanted]:
            del self._broken[name]
        for name, spec in wanted.items():
            try:
                await self._keep(spec)
            except BrokerError as error:
                await self._break(name, error)
            else:
                self._broken.pop(name, None)

    async def _keep(self, spec: Spec) -> None:
        endpoint = self._endpoints.get(spec.name)
        if endpoint is not None and endpoint.spec == spec:
            return
        self.check(spec)
        target = parse_target(spec.sink or {}, self._options)
        keys = target.secrets or (parse_secret(await self._made_secret(spec.name)),)
        if endpoint is not None:
            endpoint.configure(spec, target, keys)
            return
        self._endpoints[spec.name] = Endpoint(self._around, spec, target, keys)

    async def _break(self, name: str, error: BrokerError) -> None:
        if name in self._endpoints:
            await self._endpoints.pop(name).close()
        known = self._broken.get(name)
        if known is None or known.error != error.text:
            log.error("webhook cannot be sent", extra={"subscription": name, "error": error.text})
        self._broken[name] = EndpointStatus(name, "", "broken", error=error.text)

    # Secrets

    async def secret(self, name: str) -> str:
        """What the messages of a subscription are signed with (`whsec_…`): its own first secret, or the one made for
        it. The caller has asked for the right. Raises UNKNOWN_SUBSCRIPTION, NOT_FOUND when it has no webhook."""
        sink = self._hub.engine.subscription(name).spec.sink
        if sink is None:
            raise BrokerError(Code.NOT_FOUND, f"{name} has no webhook")
        target: Target = parse_target(sink, self._options)
        return format_secret(target.secrets[0]) if target.secrets else await self._made_secret(name)

    async def _made_secret(self, name: str) -> str:
        """Made at first use and kept, also when the subscription is deleted: made again, it signs as before."""
        key = f"webhook/{name}/secret"
        found = await self._hub.engine.get(key)
        if found is not None:
            return found[0].decode()
        made = format_secret(secrets.token_bytes(_SECRET_BYTES))
        try:
            await self._hub.publish(BROKER, [], sets=[Set(key, made.encode(), expect=0)])
        except BrokerError as error:
            if error.code is not Code.CONDITION_FAILED:
                raise
            return await self._made_secret(name)
        return made

    def figures(self) -> list[Figures]:
        """All webhooks in numbers, for metrics."""
        states = self.status()
        attempts = {
            (status.subscription, result): count
            for status in states
            for result, count in (("delivered", status.delivered), ("failed", status.failed))
        }
        under_way = {(status.subscription,): status.in_flight for status in states}
        return [
            counter("webhook_attempts", "Requests of webhooks, by result", ("subscription", "result"), attempts),
            gauge("webhook_in_flight", "Requests of webhooks under way", ("subscription",), under_way),
        ]

    def status(self) -> list[EndpointStatus]:
        """All webhooks, by subscription; first those that work."""
        return [self._endpoints[n].status() for n in sorted(self._endpoints)] + [
            self._broken[n] for n in sorted(self._broken)
        ]
