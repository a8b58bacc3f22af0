"""Publish many messages with one request: `POST /v1/messages`, all or nothing, one commit. Floor 4."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from broker.core.errors import BrokerError, Code
from broker.hub import Hub, Outgoing
from broker.protocols.http.access import connection_of, principal_of
from broker.protocols.http.draft import outgoing
from broker.protocols.http.models import Item, Receipts
from broker.protocols.http.operation import JSON, Answer, Body, Operation, Tag
from broker.protocols.http.parameters import (
    Bound,
    idempotency_key,
    media_type,
    read_body,
    refusal_of,
    trace_of,
    without_options,
)
from broker.protocols.http.publish import IDEMPOTENCY_KEY
from broker.protocols.http.reply import Reply
from broker.protocols.http.representation import receipts_json
from broker.protocols.http.router import Route

NDJSON = "application/x-ndjson"
_LINES = (NDJSON, "application/ndjson", "application/jsonl")
_ITEM = TypeAdapter(Item).validator.validate_json
_ITEMS = TypeAdapter(list[Item]).validator.validate_json

PUBLISH_MANY = Operation(
    Tag.PUBLISH,
    "Publish many messages, all or nothing",
    {201: Answer("On disk, all of them; in the order of the items.", Receipts)},
    "A JSON array of items, or with `application/x-ndjson` an item per line. One transaction: when one item is refused,"
    " nothing is published. The body may have 8 MiB and 10,000 items unless configured.\n\n"
    "With `Idempotency-Key: KEY`, an item without an `id` gets `KEY/0`, `KEY/1`, … by its place, so that the whole"
    " request can be sent again.",
    (IDEMPOTENCY_KEY,),
    Body(
        {JSON: list[Item], NDJSON: {"type": "string", "description": "An item per line."}},
        example=[
            {"topic": "orders/created", "body": {"order": 7}, "key": "customer-3"},
            {"topic": "orders/created", "body": "as text", "content_type": "text/plain"},
        ],
    ),
)


class BatchRoutes:
    """Step 1 of the journey, for many messages at once."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [Route("POST", "/v1/messages", self.publish, "publish_many", PUBLISH_MANY)]

    async def publish(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers 201 with a receipt per item after the commit."""
        connection, principal, limits = connection_of(request), principal_of(request), self._hub.limits
        without_options(request.headers)
        self._hub.check_room(principal, connection, request.content_length or 0)
        body = await read_body(request, Bound(limits.max_frame, "limits.max_frame"))
        connection.arrived()
        items = _items(media_type(request), body)
        if not 0 < len(items) <= limits.max_batch:
            raise BrokerError(Code.BAD_REQUEST, f"send 1 to {limits.max_batch} items, not {len(items)}")
        messages = outgoings(items, trace_of(request.headers))
        key = idempotency_key(request.headers)
        if key is not None:
            messages = [_named(message, f"{key}/{i}") for i, message in enumerate(messages)]
        with connection:
            published = await self._hub.publish(principal, messages, sender=connection)
        return Reply(receipts_json(published), 201)


def _items(kind: str, body: bytes) -> list[Any]:
    """The items as they are written. Raises BAD_REQUEST naming the one that does not fit."""
    if kind in _LINES:
        return _lines(body)
    if kind not in ("", JSON):
        raise BrokerError(Code.BAD_REQUEST, f"a batch is {JSON} or {NDJSON}, not {kind[:100]}")
    try:
        items: list[Any] = _ITEMS(body)
        return items
    except ValidationError as error:
        raise refusal_of(error, 'send a list: [{"topic": …, "body": …}, …]') from None


def _lines(body: bytes) -> list[Any]:
    items = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            items.append(_ITEM(line))
        except ValidationError as error:
            raise refusal_of(error, f"line {number}") from None
    return items


def outgoings(items: Iterable[Any], trace: Mapping[str, str]) -> list[Outgoing]:
    """The messages that items write, in the request's trace where they have none of their own. Raises BAD_MESSAGE,
    BAD_OPTION naming the item by its place, from 0."""
    messages: list[Outgoing] = []
    try:
        messages.extend(map(outgoing, items))
    except BrokerError as error:
        raise BrokerError(error.code, f"item {len(messages)}: {error.detail}") from None
    return [_traced(message, trace) for message in messages] if trace else messages


def _traced(message: Outgoing, trace: Mapping[str, str]) -> Outgoing:
    options = message.options or {}
    return Outgoing(message.topic, message.body, {**options, "headers": {**trace, **(options.get("headers") or {})}})


def _named(message: Outgoing, name: str) -> Outgoing:
    options = message.options or {}
    return message if "id" in options else Outgoing(message.topic, message.body, {**options, "id": name})
