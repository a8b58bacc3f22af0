"""Subscriptions, topics, scheduled messages, and how the broker is doing. Floor 4."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from broker import __version__
from broker.auth.principal import Principal, Verb
from broker.core.errors import BrokerError, Code
from broker.core.spec import parse_spec
from broker.hub import Hub
from broker.protocols.http import parameters
from broker.protocols.http.access import arrived, principal_of
from broker.protocols.http.representation import COUNTS, dumps, moment, subscription_values
from broker.protocols.http.router import Route

MAX_SCHEDULED = 10_000


class AdminRoutes:
    """`more` adds members to the status; `secret` tells what a subscription's webhooks are signed with; `stopping` says
    whether the door closes."""

    def __init__(
        self,
        hub: Hub,
        registry: CollectorRegistry,
        stopping: Callable[[], bool],
        more: Callable[[], Mapping[str, Any]],
        secret: Callable[[str], Awaitable[str]],
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._stopping = stopping
        self._more = more
        self._secret = secret
        self._started = time.monotonic()

    def routes(self) -> list[Route]:
        """What this module serves."""
        subscription = "/v1/subscriptions/{name}"
        health = [
            Route(method, path, handler, name)
            for method in ("GET", "HEAD")
            for path, handler, name in (
                ("/livez", self.livez, "livez"),
                ("/readyz", self.readyz, "readyz"),
                ("/metrics", self.metrics, "metrics"),
            )
        ]
        return [
            *health,
            Route("GET", "/v1/status", self.status, "status"),
            Route("GET", "/v1/subscriptions", self.list_subscriptions, "subscriptions"),
            Route("GET", subscription, self.get_subscription, "subscription"),
            Route("PUT", subscription, self.put_subscription, "put_subscription"),
            Route("DELETE", subscription, self.delete_subscription, "delete_subscription"),
            Route("GET", f"{subscription}/secret", self.get_secret, "secret"),
            Route("GET", "/v1/topics", self.list_topics, "topics"),
            Route("GET", "/v1/scheduled", self.list_scheduled, "scheduled"),
            Route("DELETE", "/v1/scheduled/{id}", self.cancel, "cancel"),
        ]

    # Subscriptions

    async def list_subscriptions(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers all that the client may see."""
        principal = principal_of(request)
        seen = [i for i in self._hub.engine.subscriptions() if self._sees(principal, i.spec.name)]
        return _json({"subscriptions": [subscription_values(info) for info in seen]})

    def _sees(self, principal: Principal, name: str) -> bool:
        try:
            self._hub.authorize(principal, Verb.CONSUME, name)
        except BrokerError:
            return False
        return True

    async def get_subscription(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers settings and counts."""
        return _json(subscription_values(self._hub.subscription(principal_of(request), name)))

    async def put_subscription(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Creates (201) or changes (200). What a GET answered may be sent back: counts in it are passed over."""
        principal = principal_of(request)
        values = await parameters.read_json(request)
        arrived(request)
        if not isinstance(values, dict):
            raise BrokerError(Code.BAD_REQUEST, 'send a map: {"kind": "queue", "topics": ["orders/#"]}')
        if values.pop("name", name) != name:
            raise BrokerError(Code.BAD_REQUEST, f"the name in the body is not the path's, {name!r}")
        settings = {key: value for key, value in values.items() if key not in COUNTS}
        created = await self._hub.put_subscription(principal, parse_spec(name, settings))
        return _json(subscription_values(self._hub.subscription(principal, name)), 201 if created else 200)

    async def get_secret(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers the secret that the receiver of its webhooks checks them by, to who may change the subscription."""
        self._hub.authorize(principal_of(request), Verb.MANAGE, name)
        return _json({"secret": await self._secret(name)})

    async def delete_subscription(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers 204."""
        await self._hub.delete_subscription(principal_of(request), name)
        return web.Response(status=204)

    # Topics and scheduled messages

    async def list_topics(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers names, messages and bytes."""
        principal = principal_of(request)
        seen = [asdict(t) for t in self._hub.engine.topics() if self._sees(principal, t.name)]
        return _json({"topics": seen})

    async def list_scheduled(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers what waits for its time, soonest first."""
        principal = principal_of(request)
        parameters.known(request.query, ("limit",))
        limit = parameters.whole(request.query.get("limit", "100"), "limit", 1, MAX_SCHEDULED)
        waiting = await self._hub.engine.scheduled(limit)
        seen = [s for s in waiting if self._sees(principal, s.draft[0])]
        return _json({"scheduled": [{"id": s.id, "due": moment(s.due), "topic": s.draft[0]} for s in seen]})

    async def cancel(self, request: web.BaseRequest, schedule_id: str) -> web.StreamResponse:
        """Answers 204, or 404 when it does not wait (any more)."""
        if not await self._hub.cancel(principal_of(request), schedule_id):
            raise BrokerError(Code.NOT_FOUND, f"no message {schedule_id[:100]!r} waits for its time")
        return web.Response(status=204)

    # How it is doing

    async def livez(self, _request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers 200 while the loop runs."""
        return _json({"status": "alive"})

    async def readyz(self, _request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers 200 while messages are taken or at least handed out, else 503 and why. A disk that runs low blocks
        publishers and not workers, so that the broker stays ready to be drained."""
        stats = self._hub.engine.stats()
        ready = stats.state != "failed" and not self._stopping()
        reason = "stopping" if self._stopping() else stats.reason
        body = {"status": "ready" if ready else "not ready", "state": stats.state, "reason": reason}
        return _json(body, 200 if ready else 503)

    async def status(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers the broker in numbers."""
        self._hub.authorize(principal_of(request), Verb.CONSUME, "$sys/status")
        stats = asdict(self._hub.engine.stats())
        stats.pop("extra")
        uptime = round(time.monotonic() - self._started, 1)
        return _json({"version": __version__, "uptime_seconds": uptime} | stats | dict(self._more()))

    async def metrics(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers in Prometheus' text format."""
        self._hub.authorize(principal_of(request), Verb.CONSUME, "$sys/metrics")
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=dumps(value).encode(), status=status, content_type="application/json")
