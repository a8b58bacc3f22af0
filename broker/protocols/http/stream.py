"""Follow topics live: server-sent events (WHATWG HTML §9.2) on `/v1/stream`.

The first event, `start`, says honestly where reading begins and whether that is where it was asked to; each message
carries its position as id, so that a browser resumes by itself with Last-Event-ID. A message is encoded once for all
who follow it, and written from the engine's own call, without a task or an await per reader; a reader that does not
read gets no credit, and in the end no connection. Floor 4.
"""

import asyncio
from collections import deque
from contextlib import suppress

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.position import LATEST, Start
from broker.core.subscription import Delivery
from broker.engine.base import Attachment
from broker.hub import Hub
from broker.protocols.http import parameters
from broker.protocols.http.access import arrived, connection_of, principal_of
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.problem import document
from broker.protocols.http.representation import dumps, message_json
from broker.protocols.http.router import Route

WINDOW_MESSAGES = 1_000
WINDOW_BYTES = 256 << 10
SHARED_BYTES = 4 << 20
"""Bytes of encoded events kept for other readers."""
RECONNECT_MS = 2_000
_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_HEARTBEAT = b":\n\n"


class Events:
    """Messages as events, the latest ones remembered."""

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}
        self._order: deque[int] = deque()
        self._size = 0

    def of(self, row: Row, epoch: str) -> bytes:
        """The event of one message."""
        event = self._known.get(row[0])
        if event is None:
            event = f"id: {epoch}.{row[0]}\ndata: {message_json(row, epoch)}\n\n".encode()
            self._remember(row[0], event)
        return event

    def _remember(self, offset: int, event: bytes) -> None:
        self._known[offset] = event
        self._order.append(offset)
        self._size += len(event)
        while self._size > SHARED_BYTES:
            self._size -= len(self._known.pop(self._order.popleft()))


class Follower:
    """One reader; a Consumer of the engine's."""

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, events: Events, epoch: str) -> None:
        self._connection = connection_of(request)
        self._framed = response.chunked
        self._events = events
        self._epoch = epoch
        self._attachment: Attachment | None = None
        self._owed_messages = 0
        self._owed_bytes = 0
        self._granting = False
        self.ended: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()

    def begin(self, attachment: Attachment) -> None:
        """The start event is out: let messages come."""
        self._attachment = attachment
        self._connection.on_resume = self._grant_soon
        self._connection.on_dismiss = self.end
        attachment.grant(WINDOW_MESSAGES, WINDOW_BYTES)

    def deliver(self, delivery: Delivery) -> None:
        """Write them; credit comes back as soon as the client reads."""
        rows, of, epoch = delivery.rows, self._events.of, self._epoch
        self._write(b"".join([of(row, epoch) for row in rows]))
        self._owed_messages += len(rows)
        self._owed_bytes += sum([len(row[4]) for row in rows])
        if not self._connection.writing_paused:
            self._grant_soon()

    def detached(self, error: BrokerError) -> None:
        """The engine let go of this reader."""
        self._attachment = None
        self.end(error)

    def end(self, error: BrokerError) -> None:
        """Let the request end with this as its last event."""
        if not self.ended.done():
            self.ended.set_result(error)

    def beat(self) -> None:
        """A comment, so that proxies and clients see a living stream."""
        if not self._connection.writing_paused:
            self._write(_HEARTBEAT)

    def close(self) -> None:
        """The reader is gone or was told to go."""
        self._connection.on_resume = self._connection.on_dismiss = None
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.detach()

    def _write(self, chunk: bytes) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._framed else chunk)

    def _grant_soon(self) -> None:
        """Not from within the engine's own call: what is granted may be delivered in the same breath."""
        if not self._granting and self._owed_messages:
            self._granting = True
            asyncio.get_running_loop().call_soon(self._grant)

    def _grant(self) -> None:
        self._granting = False
        if self._attachment is None or self._connection.writing_paused:
            return
        messages, size = self._owed_messages, self._owed_bytes
        self._owed_messages = self._owed_bytes = 0
        self._attachment.grant(messages, size)


class StreamRoutes:
    """Serves event streams."""

    def __init__(self, hub: Hub, options: HttpOptions) -> None:
        self._hub = hub
        self._heartbeat = options.heartbeat / 1000
        self._events = Events()
        self._followers: set[Follower] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._followers)

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [Route("GET", "/v1/stream", self.stream, "stream")]

    async def stream(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers events until the client goes."""
        if self._closed:
            raise BrokerError(Code.SHUTTING_DOWN)
        arrived(request)  # whatever body there is says nothing, and a stream lasts
        query = request.query
        parameters.known(query, ("topic", "from"))
        filters, start = parameters.filters(query.getall("topic", [])), _start(request)
        response = web.StreamResponse(headers=_HEADERS)
        response.force_close()
        if request.version >= (1, 1):
            response.enable_chunked_encoding()
        follower = Follower(request, response, self._events, self._hub.engine.epoch)
        attachment = self._hub.follow(principal_of(request), filters, start, follower)
        try:
            await response.prepare(request)
            await response.write(self._opening(attachment))
            error = await self._run(follower, attachment)
            with suppress(ConnectionError):
                await response.write(b"event: error\ndata: %b\n\n" % dumps(document(error.code, error.detail)).encode())
        finally:
            follower.close()
            attachment.detach()
        return response

    async def _run(self, follower: Follower, attachment: Attachment) -> BrokerError:
        self._followers.add(follower)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._heartbeat, self._beat)
        try:
            follower.begin(attachment)
            return await follower.ended
        finally:
            self._followers.discard(follower)

    def _opening(self, attachment: Attachment) -> bytes:
        position = f"{self._hub.engine.epoch}.{attachment.position}"
        opening = dumps({"recovered": attachment.recovered, "position": position})
        return f"retry: {RECONNECT_MS}\nid: {position}\nevent: start\ndata: {opening}\n\n".encode()

    def _beat(self) -> None:
        self._timer = None
        for follower in self._followers:
            follower.beat()
        if self._followers:
            self._timer = asyncio.get_running_loop().call_later(self._heartbeat, self._beat)

    def close(self) -> None:
        """The door closes: everybody is told."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for follower in self._followers:
            follower.end(BrokerError(Code.SHUTTING_DOWN))


def _start(request: web.BaseRequest) -> Start:
    """Last-Event-ID goes before `from`: a browser that reconnects sends both."""
    last = request.headers.get("Last-Event-ID")
    if last:
        return parameters.start(last, "Last-Event-ID")
    return parameters.start(request.query["from"]) if "from" in request.query else LATEST
