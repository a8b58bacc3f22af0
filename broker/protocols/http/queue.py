"""Work a queue: `/v1/queues/{name}/receive` and `/settle`, and what its owner does with it. Floor 4."""

import asyncio

from aiohttp import web

from broker.auth.grant import Verb, on_subscription
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.protocols.http import parameters
from broker.protocols.http.access import arrived, connection_of, principal_of
from broker.protocols.http.models import Count, Peeked, ReceivedMessages, SettleItem, SettleResults
from broker.protocols.http.operation import (
    JSON,
    Answer,
    Body,
    Duration,
    Operation,
    Tag,
    Whole,
    no_content,
    path_part,
)
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.receipt import Receipt, Receipts
from broker.protocols.http.receiver import Handed, Receiver, Receivers
from broker.protocols.http.representation import answer, message_json, messages_json
from broker.protocols.http.router import Route
from broker.protocols.http.settlement import Settlement

MAX_RECEIVE = 1_000
MAX_PEEK = 1_000
MAX_DEAD = 10_000
GLANCE, LOOK = 0.02, 1.0
"""Seconds that a poll which does not want to wait gives the engine: when nothing is ready, and when something is."""

QUEUE = path_part("name", "The queue.", "mailer")
MAX = Whole.of("max", "At most so many messages.", 1, MAX_RECEIVE, 1)
WAIT = Duration("wait", "How long to wait for the first one; at most 60 s unless configured.")
PEEK_LIMIT = Whole.of("limit", "At most so many messages.", 1, MAX_PEEK, 10)
PEEK_AFTER = Whole.of("after", "Behind this offset: that of the last one seen.", 0, 10**18 - 1, 0)
DEAD_LIMIT = Whole.of("limit", "At most so many, oldest first.", 1, MAX_DEAD, 1_000)

RECEIVE = Operation(
    Tag.QUEUES,
    "Receive messages",
    {200: Answer("As soon as there is one; none after the wait.", ReceivedMessages)},
    "Leases outlive the request and the connection. When its lease runs out, a message goes to another worker; a settle"
    " that comes late is taken as long as nobody else holds the message.",
    (QUEUE, MAX, WAIT),
)
SETTLE = Operation(
    Tag.QUEUES,
    "Settle messages or extend their leases",
    {200: Answer("After the commit, a result per item.", SettleResults)},
    "One bad item does not stop the others. To settle and publish all or nothing, send a unit.",
    (QUEUE,),
    Body({JSON: list[SettleItem]}, "At most 10,000 items unless configured."),
)
PEEK = Operation(
    Tag.QUEUES,
    "Look at the oldest outstanding messages",
    {200: Answer("Untouched, leased ones included.", Peeked)},
    "Fewer than asked for when their bodies take more than 4 MiB; none at the end.",
    (QUEUE, PEEK_LIMIT, PEEK_AFTER),
)
PAUSE = Operation(Tag.QUEUES, "Stop handing out", no_content("It survives a restart."), "", (QUEUE,))
RESUME = Operation(Tag.QUEUES, "Go on handing out", no_content("Handed out again."), "", (QUEUE,))
PURGE = Operation(
    Tag.QUEUES, "Settle all that waits and is not leased", {200: Answer("Gone from the queue.", Count)}, "", (QUEUE,)
)
PURGE_DEAD = Operation(
    Tag.QUEUES, "Delete dead letters for good", {200: Answer("Deleted.", Count)}, "", (QUEUE, DEAD_LIMIT)
)
REDRIVE = Operation(
    Tag.QUEUES, "Put dead letters back into the queue", {200: Answer("Ready again.", Count)}, "", (QUEUE, DEAD_LIMIT)
)


class QueueRoutes:
    """Steps 4 and 5 of the journey for workers that speak HTTP."""

    def __init__(self, hub: Hub, options: HttpOptions, receivers: Receivers) -> None:
        self._hub = hub
        self._options = options
        self._receivers = receivers

    def routes(self) -> list[Route]:
        """What this module serves."""
        path = "/v1/queues/{name}/"
        return [
            Route("POST", f"{path}receive", self.receive, "receive", RECEIVE),
            Route("POST", f"{path}settle", self.settle, "settle", SETTLE),
            Route("GET", f"{path}peek", self.peek, "peek", PEEK),
            Route("POST", f"{path}pause", self.pause, "pause", PAUSE),
            Route("POST", f"{path}resume", self.resume, "resume", RESUME),
            Route("POST", f"{path}purge", self.purge, "purge", PURGE),
            Route("POST", f"{path}purge-dead", self.purge_dead, "purge_dead", PURGE_DEAD),
            Route("POST", f"{path}redrive", self.redrive, "redrive", REDRIVE),
        ]

    # Workers

    async def receive(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers up to `max` messages as soon as there is one, none after `wait`."""
        arrived(request)  # whatever body there is says nothing; the wait is not for it
        count = MAX.read(request.query)
        wait = WAIT.read(request.query, self._options.max_wait) / 1000
        principal = principal_of(request)
        receiver = self._receivers.open(principal, name)
        if not wait:
            info = self._hub.engine.subscription(name)
            wait = LOOK if info.ready and not info.paused else GLANCE
        with (
            connection_of(request).interruptible() as interrupt,
            self._hub.hold(principal, Verb.CONSUME, on_subscription(name), interrupt),
        ):
            handed = await receiver.receive(count, wait)
        response = web.Response(body=self._received(name, receiver, handed), content_type="application/json")
        if handed.rows:
            await _hand_over(request, response, receiver, handed)
        return response

    def _received(self, name: str, receiver: Receiver, handed: Handed) -> bytes:
        epoch = self._hub.engine.epoch
        receipts = Receipts(name, epoch)
        texts = [
            message_json(
                row,
                epoch,
                attempt=handed.attempts.get(row[0], (0, 0))[0] + 1,
                receipt=receipts.make(Receipt(row[0], handed.lease)),
            )
            for row in handed.rows
        ]
        return messages_json(texts, lease_seconds=receiver.lease / 1000)

    async def settle(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers a result per item after the commit; one bad item does not stop the others."""
        principal = principal_of(request)
        self._hub.queue(principal, name, Verb.CONSUME)
        items = await parameters.read_json(request)
        arrived(request)
        self._hub.queue(principal, name, Verb.CONSUME)  # it may have ended while the body came
        limit = self._hub.limits.max_batch
        if not isinstance(items, list) or not 0 < len(items) <= limit:
            raise BrokerError(Code.BAD_REQUEST, f'send a list of 1 to {limit} items {{"receipt": …, "outcome": …}}')
        receipts, receiver = Receipts(name, self._hub.engine.epoch), self._receivers.get(name)
        settlement = Settlement(name)
        for item in items:
            settlement.add(item, receipts, receiver)
        if settlement.settles:
            connection = connection_of(request)
            with connection:
                lost = await self._hub.settle(principal, settlement.settles, sender=connection)
            settlement.finish({offset for _, offset in lost}, receiver)
        return answer({"results": settlement.results})

    # Owners

    async def peek(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers the oldest outstanding messages without touching them."""
        limit = PEEK_LIMIT.read(request.query)
        rows = await self._hub.peek(principal_of(request), name, limit, PEEK_AFTER.read(request.query))
        epoch = self._hub.engine.epoch
        body = messages_json([message_json(row, epoch) for row in rows])
        return web.Response(body=body, content_type="application/json")

    async def pause(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Stops handing out."""
        await self._hub.pause(principal_of(request), name, paused=True)
        return web.Response(status=204)

    async def resume(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Goes on handing out."""
        await self._hub.pause(principal_of(request), name, paused=False)
        return web.Response(status=204)

    async def purge(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Settles all that is outstanding and not leased; answers how many."""
        return answer({"count": await self._hub.purge(principal_of(request), name)})

    async def purge_dead(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Deletes up to `limit` dead letters; answers how many."""
        limit = DEAD_LIMIT.read(request.query)
        return answer({"count": await self._hub.purge_dead(principal_of(request), name, limit)})

    async def redrive(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Puts up to `limit` dead letters back; answers how many."""
        limit = DEAD_LIMIT.read(request.query)
        return answer({"count": await self._hub.redrive(principal_of(request), name, limit)})


async def _hand_over(request: web.BaseRequest, response: web.Response, receiver: Receiver, handed: Handed) -> None:
    """Send it here, where a client that is gone is noticed: then the messages are ready again at once."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except (ConnectionError, asyncio.CancelledError):
        receiver.give_back(handed)
        raise
