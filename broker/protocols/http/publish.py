"""Publish and replay: `/v1/topics/{topic}/messages`. Floor 4."""

from aiohttp import web

from broker.core.position import EARLIEST
from broker.core.topic import check_filter
from broker.hub import Hub, Outgoing
from broker.protocols.http import parameters
from broker.protocols.http.access import connection_of, principal_of
from broker.protocols.http.representation import message_json, messages_json, receipt_json
from broker.protocols.http.router import Route

MAX_PAGE = 1_000
DEFAULT_PAGE = 100


class PublishRoutes:
    """Step 1 of the journey, and a look at the log."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        """What this module serves."""
        path = "/v1/topics/{topic}/messages"
        return [Route("POST", path, self.publish, "publish"), Route("GET", path, self.replay, "replay")]

    async def publish(self, request: web.BaseRequest, topic: str) -> web.StreamResponse:
        """Answers 201 with the receipt after the commit."""
        options = parameters.publish_options(request.headers)
        body = await parameters.read_body(request, self._hub.limits.max_body)
        connection = connection_of(request)
        connection.arrived()
        message = Outgoing(topic, body, options)
        with connection:
            published = await self._hub.publish(principal_of(request), [message], sender=connection)
        return web.Response(body=receipt_json(published[0]), status=201, content_type="application/json")

    async def replay(self, request: web.BaseRequest, topic: str) -> web.StreamResponse:
        """Answers a page of the log; `next` is the position to go on from."""
        query = request.query
        parameters.known(query, ("from", "limit"))
        start = parameters.start(query["from"]) if "from" in query else EARLIEST
        limit = parameters.whole(query.get("limit", str(DEFAULT_PAGE)), "limit", 1, MAX_PAGE)
        page = await self._hub.read(principal_of(request), [check_filter(topic)], start, limit)
        epoch = self._hub.engine.epoch
        texts = [message_json(row, epoch) for row in page.rows]
        body = messages_json(texts, next=f"{epoch}.{page.scanned}", recovered=page.recovered)
        return web.Response(body=body, content_type="application/json")
