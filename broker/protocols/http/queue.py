"""Work a queue: `/v1/queues/{name}/receive` and `/settle`, and what its owner does with it. Floor 4."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.auth.principal import Verb
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.protocols.http import parameters
from broker.protocols.http.access import arrived, connection_of, principal_of
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.receipt import Receipt, Receipts
from broker.protocols.http.receiver import Handed, Receiver, Receivers
from broker.protocols.http.representation import dumps, message_json, messages_json
from broker.protocols.http.router import Route
from broker.protocols.http.settlement import Settlement

MAX_RECEIVE = 1_000
MAX_PEEK = 1_000
GLANCE, LOOK = 0.02, 1.0
"""Seconds that a poll which does not want to wait gives the engine: when nothing is ready, and when something is."""


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
            Route("POST", f"{path}receive", self.receive, "receive"),
            Route("POST", f"{path}settle", self.settle, "settle"),
            Route("GET", f"{path}peek", self.peek, "peek"),
            Route("POST", f"{path}pause", self.pause, "pause"),
            Route("POST", f"{path}resume", self.resume, "resume"),
            Route("POST", f"{path}purge", self.purge, "purge"),
            Route("POST", f"{path}purge-dead", self.purge_dead, "purge_dead"),
            Route("POST", f"{path}redrive", self.redrive, "redrive"),
        ]

    # Workers

    async def receive(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers up to `max` messages as soon as there is one, none after `wait`."""
        arrived(request)  # whatever body there is says nothing; the wait is not for it
        query = request.query
        parameters.known(query, ("max", "wait"))
        count = parameters.whole(query.get("max", "1"), "max", 1, MAX_RECEIVE)
        wait = self._wait(query.get("wait", "0"))
        receiver = self._receivers.open(principal_of(request), name)
        if not wait:
            info = self._hub.engine.subscription(name)
            wait = LOOK if info.ready and not info.paused else GLANCE
        with connection_of(request).interruptible():
            handed = await receiver.receive(count, wait)
        response = web.Response(body=self._received(name, receiver, handed), content_type="application/json")
        if handed.rows:
            await _hand_over(request, response, receiver, handed)
        return response

    def _wait(self, text: str) -> float:
        wait = parameters.duration(text, "wait")
        if wait > self._options.max_wait:
            raise BrokerError(
                Code.BAD_OPTION, f"wait is at most {self._options.max_wait // 1000} s; ask again after it"
            )
        return wait / 1000

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
        return _json({"results": settlement.results})

    # Owners

    async def peek(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Answers the oldest outstanding messages without touching them."""
        limit = _limit(request, 10, MAX_PEEK)
        self._hub.queue(principal_of(request), name, Verb.CONSUME)
        rows = await self._hub.engine.peek(name, limit)
        epoch = self._hub.engine.epoch
        body = messages_json([message_json(row, epoch) for row in rows])
        return web.Response(body=body, content_type="application/json")

    async def pause(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Stops handing out."""
        return await self._manage(request, name, lambda: self._hub.engine.pause(name, True))

    async def resume(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Goes on handing out."""
        return await self._manage(request, name, lambda: self._hub.engine.pause(name, False))

    async def purge(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Settles all that is outstanding and not leased; answers how many."""
        return await self._manage(request, name, lambda: self._hub.engine.purge(name))

    async def purge_dead(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Deletes up to `limit` dead letters; answers how many."""
        limit = _limit(request, 1_000, self._hub.limits.max_batch)
        return await self._manage(request, name, lambda: self._hub.engine.purge_dead(name, limit))

    async def redrive(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """Puts up to `limit` dead letters back; answers how many."""
        limit = _limit(request, 1_000, self._hub.limits.max_batch)
        return await self._manage(request, name, lambda: self._hub.engine.redrive(name, limit))

    async def _manage(
        self, request: web.BaseRequest, name: str, act: Callable[[], Awaitable[int | None]]
    ) -> web.StreamResponse:
        self._hub.queue(principal_of(request), name, Verb.MANAGE)
        count = await act()
        return web.Response(status=204) if count is None else _json({"count": count})


async def _hand_over(request: web.BaseRequest, response: web.Response, receiver: Receiver, handed: Handed) -> None:
    """Send it here, where a client that is gone is noticed: then the messages are ready again at once."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except (ConnectionError, asyncio.CancelledError):
        receiver.give_back(handed)
        raise


def _limit(request: web.BaseRequest, default: int, most: int) -> int:
    parameters.known(request.query, ("limit",))
    return parameters.whole(request.query.get("limit", str(default)), "limit", 1, most)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=dumps(value).encode(), status=status, content_type="application/json")
