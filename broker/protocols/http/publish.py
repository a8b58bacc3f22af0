"""Publish and replay: `/v1/topics/{topic}/messages`. Floor 4."""

from typing import Any

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.core.position import EARLIEST
from broker.core.topic import check_filter
from broker.hub import Hub, Outgoing
from broker.protocols.http import cloudevents, parameters
from broker.protocols.http.access import connection_of, principal_of
from broker.protocols.http.compression import packed
from broker.protocols.http.models import Page, Receipt, Receipts
from broker.protocols.http.operation import DURATION, Answer, Body, From, Operation, Tag, Whole, header, path_part
from broker.protocols.http.reply import Reply
from broker.protocols.http.representation import message_json, messages_json, receipt_json, receipts_json
from broker.protocols.http.router import Route

MAX_PAGE = 1_000
DEFAULT_PAGE = 100
PATH = "/v1/topics/{topic}/messages"
TOPIC = path_part("topic", "Levels joined by `/`. To read, it may be a filter.", "orders/created")
IDEMPOTENCY_KEY = header("Idempotency-Key", "A retry with the same key stores nothing twice.", example='"8e03978e"')
HEADERS = (
    header("Postroom-Id", "The same id on the same topic is stored once, for 7 days: makes a retry safe."),
    header("Postroom-Key", "Messages of one key keep their order in an ordered queue.", example="customer-3"),
    header("Postroom-Priority", "9 goes first.", {"type": "integer", "minimum": 0, "maximum": 9}),
    header("Postroom-Delay", "Enter the log only after this time.", DURATION),
    header("Postroom-Ttl", "Nobody wants it after this time.", DURATION),
)
LIMIT = Whole.of("limit", "At most so many messages.", 1, MAX_PAGE, DEFAULT_PAGE)
FROM = From("from", "`earliest`, `latest`, an offset, a position, or an RFC 3339 time (`+` is `%2B` in a URL).")

PUBLISH = Operation(
    Tag.PUBLISH,
    "Publish a message",
    {201: Answer("On disk.", Receipt | Receipts)},
    "The body is the message, bytes as they are; `Content-Type` is kept with it. `Postroom-Header-NAME` sets a header"
    " of the message's own. `Idempotency-Key` is another name for `Postroom-Id`.\n\n"
    "CloudEvents 1.0 come in binary mode (`ce-` headers), structured mode (`application/cloudevents+json`) or as"
    " a batch (`application/cloudevents-batch+json`, all or nothing, answered by `{receipts}`). Data becomes the body,"
    " `datacontenttype` the content type, every other attribute a header `ce-NAME`; source and id together are the id,"
    " `partitionkey` or else `subject` is the key.",
    (TOPIC, *HEADERS, IDEMPOTENCY_KEY),
    Body({"*/*": None}, "At most 1 MiB unless configured.", required=False),
)
REPLAY = Operation(
    Tag.READ,
    "Read a piece of the log",
    {200: Answer("In order of offset.", Page)},
    "Without settling anything, and as often as you like. Go on with `from=` the `next` of the answer.",
    (TOPIC, FROM, LIMIT),
)


class PublishRoutes:
    """Step 1 of the journey, and a look at the log."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [
            Route("POST", PATH, self.publish, "publish", PUBLISH),
            Route("GET", PATH, self.replay, "replay", REPLAY),
        ]

    async def publish(self, request: web.BaseRequest, topic: str) -> web.StreamResponse:
        """Answers 201 with the receipt after the commit."""
        options = parameters.publish_options(request.headers)
        connection = connection_of(request)
        principal = principal_of(request)
        if not request.content.is_eof():
            self._hub.check_room(principal, connection, request.content_length or 0)
        kind = options.get("content_type", "")
        if kind[:23].lower() == cloudevents.STRUCTURED:
            return await self._publish_events(request, topic, options)
        body = await parameters.read_body(request, self._hub.limits.max_body)
        connection.arrived()
        message = Outgoing(topic, body, options)
        with connection:
            published = await self._hub.publish_one(principal, message, connection)
        return Reply(receipt_json(published), 201)

    async def _publish_events(
        self, request: web.BaseRequest, topic: str, options: dict[str, Any]
    ) -> web.StreamResponse:
        """One CloudEvent in structured mode, or a batch of them."""
        kind, connection, limits = parameters.media_type(request), connection_of(request), self._hub.limits
        batch = kind == f"{cloudevents.BATCH}+json"
        if not batch and kind != f"{cloudevents.STRUCTURED}+json":
            raise BrokerError(Code.BAD_MESSAGE, f"{kind[:100]} is not read here; events are JSON")
        body = await parameters.read_body(request, limits.max_frame if batch else 2 * limits.max_body)
        connection.arrived()
        events = cloudevents.from_json_batch(topic, body) if batch else [cloudevents.from_json(topic, body)]
        if len(events) > limits.max_batch:
            raise BrokerError(Code.BAD_REQUEST, f"a batch holds at most {limits.max_batch} events, not {len(events)}")
        beside = {name: value for name, value in options.items() if name != "content_type"}
        if batch and "id" in beside:
            raise BrokerError(Code.BAD_OPTION, "one id cannot name a batch; events have ids of their own")
        messages = [Outgoing(e.topic, e.body, parameters.with_event(e.options or {}, beside)) for e in events]
        with connection:
            published = await self._hub.publish(principal_of(request), messages, sender=connection)
        return Reply(receipts_json(published) if batch else receipt_json(published[0]), 201)

    async def replay(self, request: web.BaseRequest, topic: str) -> web.StreamResponse:
        """Answers a page of the log; `next` is the position to go on from."""
        start, limit = FROM.read(request.query, EARLIEST), LIMIT.read(request.query)
        page = await self._hub.read(principal_of(request), [check_filter(topic)], start, limit)
        epoch = self._hub.engine.epoch
        texts = [message_json(row, epoch) for row in page.rows]
        body = messages_json(texts, next=f"{epoch}.{page.scanned}", recovered=page.recovered)
        return await packed(request, web.Response(body=body, content_type="application/json"))
