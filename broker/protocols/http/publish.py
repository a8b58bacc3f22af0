"""Publish and replay: `/v1/topics/{topic}/messages`. Floor 4."""

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.core.position import EARLIEST
from broker.core.topic import check_filter
from broker.engine.base import Receipt as CommitReceipt
from broker.engine.base import Unit
from broker.hub import Hub, Outgoing
from broker.protocols.http import cloudevents, parameters
from broker.protocols.http.access import connection_of, principal_of
from broker.protocols.http.compression import packed
from broker.protocols.http.connection import Connection
from broker.protocols.http.exchange import Exchange
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
    header(
        "Postroom-Id",
        "The same id on the same topic is stored once, for 7 days, whatever its body: makes a retry safe.",
    ),
    header("Postroom-Key", "Messages of one key keep their order in an ordered queue.", example="customer-3"),
    header("Postroom-Priority", "9 goes first.", {"type": "integer", "minimum": 0, "maximum": 9}),
    header("Postroom-Delay", "Enter the log only after this time.", DURATION),
    header("Postroom-Ttl", "Nobody wants it after this time.", DURATION),
)
EVENT_KIND, BATCH_KIND = f"{cloudevents.STRUCTURED}+json", f"{cloudevents.BATCH}+json"
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
        self._one = parameters.Bound(hub.limits.max_body, "limits.max_body")

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [
            Route("POST", PATH, self.publish, "publish", PUBLISH, self.publish_promptly),
            Route("GET", PATH, self.replay, "replay", REPLAY),
        ]

    def publish_promptly(self, exchange: Exchange) -> None:
        """The same as `publish`, for what is here already."""
        options = parameters.publish_options(exchange.headers)
        body = exchange.body(self._limit(options))
        unit, told = self._prepare(exchange.connection, exchange.principal, exchange.part, body, options)

        def done(receipt: CommitReceipt) -> None:
            if receipt.error is None:
                exchange.reply(told(receipt), 201)
            else:
                exchange.refuse(receipt.error)

        unit.done = done
        self._hub.commit(unit)

    async def publish(self, request: web.BaseRequest, topic: str) -> web.StreamResponse:
        """Answers 201 with the receipt after the commit."""
        options = parameters.publish_options(request.headers)
        connection, principal = connection_of(request), principal_of(request)
        if not request.content.is_eof():
            self._hub.check_room(principal, connection, request.content_length or 0)
        body = await parameters.read_body(request, self._limit(options))
        connection.arrived()
        unit, told = self._prepare(connection, principal, topic, body, options)
        with connection:
            return Reply(told(await self._hub.committed(unit)), 201)

    def _limit(self, options: Mapping[str, Any]) -> parameters.Bound:
        """Bytes of a body. Raises BAD_MESSAGE for events in a format that is not read."""
        kind, limits = _events(options), self._hub.limits
        if kind == "":
            return self._one
        if kind == BATCH_KIND:
            return parameters.Bound(limits.max_frame, "limits.max_frame")
        if kind == EVENT_KIND:
            return parameters.Bound(2 * limits.max_body, "twice limits.max_body")
        raise BrokerError(Code.BAD_MESSAGE, f"{kind[:100]} is not read here; events are JSON")

    def _prepare(
        self, connection: Connection, principal: Principal, topic: str, body: bytes, options: dict[str, Any]
    ) -> tuple[Unit, Callable[[CommitReceipt], bytes]]:
        """The unit, and what its receipt is told as."""
        kind = _events(options)
        if kind == BATCH_KIND:
            messages = self._batch(topic, body, options)
            prepared = self._hub.prepare(principal, messages, sender=connection)
            return prepared.unit, lambda receipt: receipts_json(prepared.published(receipt))
        message = Outgoing(topic, body, options)
        if kind:
            message = _outgoing(cloudevents.from_json(topic, body), _beside(options))
        unit, published = self._hub.prepare_one(principal, message, connection)
        return unit, lambda receipt: receipt_json(published(receipt))

    def _batch(self, topic: str, body: bytes, options: Mapping[str, Any]) -> list[Outgoing]:
        events, most = cloudevents.from_json_batch(topic, body), self._hub.limits.max_batch
        if len(events) > most:
            raise BrokerError(Code.BAD_REQUEST, f"a batch holds at most {most} events, not {len(events)}")
        if "id" in options:
            raise BrokerError(Code.BAD_OPTION, "one id cannot name a batch; events have ids of their own")
        beside = _beside(options)
        return [_outgoing(event, beside) for event in events]

    async def replay(self, request: web.BaseRequest, topic: str) -> web.StreamResponse:
        """Answers a page of the log; `next` is the position to go on from."""
        start, limit = FROM.read(request.query, EARLIEST), LIMIT.read(request.query)
        page = await self._hub.read(principal_of(request), [check_filter(topic)], start, limit)
        epoch = self._hub.engine.epoch
        texts = [message_json(row, epoch) for row in page.rows]
        body = messages_json(texts, next=f"{epoch}.{page.scanned}", recovered=page.recovered)
        return await packed(request, web.Response(body=body, content_type="application/json"))


def _events(options: Mapping[str, Any]) -> str:
    """The media type when it is one of CloudEvents in structured mode, else ""."""
    kind: str = options.get("content_type", "")
    if kind[:23].lower() != cloudevents.STRUCTURED:
        return ""
    return kind.partition(";")[0].strip().lower()


def _beside(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the request says of an event beside what that says itself."""
    return {name: value for name, value in options.items() if name != "content_type"}


def _outgoing(event: Outgoing, beside: Mapping[str, Any]) -> Outgoing:
    return Outgoing(event.topic, event.body, parameters.with_event(event.options or {}, beside))
