"""Topics, scheduled messages, and how the broker is doing. Floor 4."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from broker import __version__
from broker.auth import grant
from broker.auth.grant import Verb
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.protocols.http.access import principal_of
from broker.protocols.http.models import Alive, Ready, Scheduled, Status, Topics
from broker.protocols.http.operation import Answer, Operation, Tag, Whole, no_content, pages, path_part
from broker.protocols.http.paging import page
from broker.protocols.http.representation import answer, moment
from broker.protocols.http.router import Route

LIMIT, AFTER = pages("topics", 10_000, 10_000)
SCHEDULED_LIMIT = Whole.of("limit", "At most so many messages.", 1, 10_000, 100)

LIVEZ = Operation(Tag.BROKER, "Is it alive?", {200: Answer("The loop runs.", Alive)})
READYZ = Operation(
    Tag.BROKER,
    "Does it serve?",
    {200: Answer("It does.", Ready), 503: Answer("It does not, and why.", Ready)},
    "A disk that runs low blocks publishers and not workers, so that the broker stays ready to be drained.",
)
METRICS = Operation(
    Tag.BROKER, "Metrics for Prometheus", {200: Answer("In its text format.", media=CONTENT_TYPE_LATEST)}
)
STATUS = Operation(Tag.BROKER, "The broker in numbers", {200: Answer("Numbers.", Status)})
TOPICS = Operation(Tag.READ, "List topics", {200: Answer("By name.", Topics)}, "", (LIMIT, AFTER))
SCHEDULED = Operation(
    Tag.SCHEDULE,
    "List messages that wait for their time",
    {200: Answer("Soonest first.", Scheduled)},
    "",
    (SCHEDULED_LIMIT,),
)
CANCEL = Operation(
    Tag.SCHEDULE,
    "Cancel a scheduled message",
    no_content("It never comes. 404 when it does not wait (any more)."),
    "",
    (path_part("id", "The id of its receipt.", "order-8"),),
)


class AdminRoutes:
    """`more` adds members to the status; `stopping` says whether the door closes."""

    def __init__(
        self,
        hub: Hub,
        registry: CollectorRegistry,
        stopping: Callable[[], bool],
        more: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._stopping = stopping
        self._more = more
        self._started = time.monotonic()

    def routes(self) -> list[Route]:
        """What this module serves."""
        health = [
            Route("GET", path, handler, name, operation, open=open_to_all)
            for path, handler, name, operation, open_to_all in (
                ("/livez", self.livez, "livez", LIVEZ, True),
                ("/readyz", self.readyz, "readyz", READYZ, True),
                ("/metrics", self.metrics, "metrics", METRICS, False),
            )
        ]
        return [
            *health,
            Route("GET", "/v1/status", self.status, "status", STATUS),
            Route("GET", "/v1/topics", self.list_topics, "topics", TOPICS),
            Route("GET", "/v1/scheduled", self.list_scheduled, "scheduled", SCHEDULED),
            Route("DELETE", "/v1/scheduled/{id}", self.cancel, "cancel", CANCEL),
        ]

    # Topics and scheduled messages

    async def list_topics(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers names, messages and bytes."""
        limit = LIMIT.read(request.query)
        seen = await self._hub.topics(principal_of(request), request.query.get("after"), limit + 1)
        part, following = page(seen, lambda topic: topic.name, limit, None)
        return answer({"topics": [asdict(topic) for topic in part], "next": following})

    async def list_scheduled(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers what waits for its time, soonest first."""
        seen = await self._hub.scheduled(principal_of(request), SCHEDULED_LIMIT.read(request.query))
        return answer({"scheduled": [{"id": s.id, "due": moment(s.due), "topic": s.topic} for s in seen]})

    async def cancel(self, request: web.BaseRequest, schedule_id: str) -> web.StreamResponse:
        """Answers 204, or 404 when it does not wait (any more)."""
        if not await self._hub.cancel(principal_of(request), schedule_id):
            raise BrokerError(Code.NOT_FOUND, f"no message {schedule_id[:100]!r} waits for its time")
        return web.Response(status=204)

    # How it is doing

    async def livez(self, _request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers 200 while the loop runs."""
        return answer({"status": "alive"})

    async def readyz(self, _request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers 200 while messages are taken or at least handed out, else 503 and why."""
        stats = self._hub.engine.stats()
        ready = stats.state != "failed" and not self._stopping()
        reason = "stopping" if self._stopping() else stats.reason
        body = {"status": "ready" if ready else "not ready", "state": stats.state, "reason": reason}
        return answer(body, 200 if ready else 503)

    async def status(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers the broker in numbers."""
        self._hub.authorize(principal_of(request), Verb.CONSUME, grant.STATUS)
        stats = asdict(self._hub.engine.stats())
        stats.pop("extra")
        uptime = round(time.monotonic() - self._started, 1)
        values = {"version": __version__, "uptime_seconds": uptime, **stats, "limits": self._hub.flow.status()}
        return answer(values | dict(self._more()))

    async def metrics(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers in Prometheus' text format."""
        self._hub.authorize(principal_of(request), Verb.CONSUME, grant.METRICS)
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
