"""Several things that must happen together or not at all: `POST /v1/units`. Floor 4."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from broker.core.duration import parse_duration
from broker.core.errors import BrokerError, Code
from broker.core.subscription import Outcome
from broker.engine.base import Set, Settle
from broker.hub import Hub
from broker.protocols.http.access import connection_of, principal_of
from broker.protocols.http.batch import outgoings
from broker.protocols.http.draft import unpacked
from broker.protocols.http.models import Done, KeyWrite, UnitSettle, Work
from broker.protocols.http.operation import JSON, Answer, Body, Operation, Tag
from broker.protocols.http.parameters import Bound, read_body, refusal_of, trace_of, without_options
from broker.protocols.http.receipt import Receipt, Receipts
from broker.protocols.http.receiver import Receivers
from broker.protocols.http.reply import Reply
from broker.protocols.http.representation import done_json
from broker.protocols.http.router import Route

_WORK = TypeAdapter(Work).validator.validate_json

UNIT = Operation(
    Tag.PUBLISH,
    "Publish, settle and write keys, all or nothing",
    {200: Answer("On disk, all of it.", Done)},
    "One transaction. Work that is done exactly once: publish what came of a message and ack it in the same unit. When"
    " a lease has ended meanwhile, or a key has another revision than `expect` says (0: it is absent), nothing is done:"
    " 409 or 412. What settles alone needs no unit.",
    (),
    Body(
        {JSON: Work},
        example={
            "settle": [{"queue": "orders", "receipt": "RECEIPT", "outcome": "ack"}],
            "publish": [{"topic": "mails/sent", "body": {"order": 7}}],
            "set": [{"key": "mails/count", "value": "8", "expect": 41}],
        },
    ),
)


class UnitRoutes:
    """Steps 1 and 5 of the journey in one commit."""

    def __init__(self, hub: Hub, receivers: Receivers) -> None:
        self._hub = hub
        self._receivers = receivers

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [Route("POST", "/v1/units", self.commit, "unit", UNIT)]

    async def commit(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers 200 with receipts and revisions after the commit."""
        connection, principal, limits = connection_of(request), principal_of(request), self._hub.limits
        without_options(request.headers, "idempotency-key")
        self._hub.check_room(principal, connection, request.content_length or 0)
        body = await read_body(request, Bound(limits.max_frame, "limits.max_frame"))
        connection.arrived()
        try:
            work = _WORK(body)
        except ValidationError as error:
            raise refusal_of(error, 'send a map: {"publish": […], "settle": […], "set": […]}') from None
        publish, settle, write = (work.get(name, ()) for name in ("publish", "settle", "set"))
        if not publish and not write:
            raise BrokerError(Code.BAD_REQUEST, "a unit publishes or sets something; settles alone go to the queue")
        if len(publish) + len(settle) + len(write) > limits.max_batch:
            raise BrokerError(Code.BAD_REQUEST, f"a unit holds at most {limits.max_batch} items")
        settles, sets = self._settles(settle), [_set(item) for item in write]
        for item in sets:
            self._hub.check_key(principal, item.key, item.value)
        messages = outgoings(publish, trace_of(request.headers))
        prepared = self._hub.prepare(principal, messages, settles=settles, sets=sets, sender=connection)
        with connection:
            receipt = await self._hub.committed(prepared.unit)
        self._forget(settles)
        return Reply(done_json(prepared.published(receipt), receipt.revisions))

    def _settles(self, items: Sequence[UnitSettle]) -> list[Settle]:
        epoch = self._hub.engine.epoch
        settles = []
        for item in items:
            receipt = Receipts(item["queue"], epoch).read(item["receipt"])
            outcome = Outcome(item["outcome"])
            delay = item.get("delay")
            if delay is not None and outcome is not Outcome.RETRY:
                raise BrokerError(Code.BAD_OPTION, "delay goes with retry")
            span = None if delay is None else parse_duration(delay, "delay")
            settles.append(Settle(item["queue"], outcome, receipt.offset, receipt.lease, span, item.get("error")))
        if len({(settle.subscription, settle.offset) for settle in settles}) < len(settles):
            raise BrokerError(Code.BAD_REQUEST, "a message is settled twice in this unit")
        return settles

    def _forget(self, settles: Sequence[Settle]) -> None:
        for settle in settles:
            receiver = self._receivers.get(settle.subscription)
            if receiver is not None and settle.lease is not None:
                receiver.forget(Receipt(settle.offset, settle.lease))


def _set(item: KeyWrite) -> Set:
    values: dict[str, Any] = dict(item)
    if ("value" in values) == ("value_base64" in values):
        raise BrokerError(
            Code.BAD_OPTION, f"key {item['key'][:100]!r}: give either value (null deletes) or value_base64"
        )
    if "value_base64" in values:
        return Set(item["key"], unpacked(values["value_base64"], "value_base64"), item.get("expect"))
    value = item["value"]
    return Set(item["key"], None if value is None else value.encode(), item.get("expect"))
