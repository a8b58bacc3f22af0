"""Follow topics live: server-sent events (WHATWG HTML §9.2) on `/v1/stream`, or a WebSocket where one is asked for.

The first event, `start`, says honestly where reading begins and whether that is where it was asked to; each message
carries its position as id, so that a browser resumes by itself with Last-Event-ID. A commit's messages are encoded and
framed once for all who follow them, and written from the engine's own call, without a task or an await per reader.
Floor 4.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.position import LATEST, Start
from broker.core.subscription import Delivery, Kind
from broker.engine.base import Attachment
from broker.hub import Hub
from broker.protocols.http import parameters
from broker.protocols.http.access import arrived, connection_of, principal_of
from broker.protocols.http.authorization import ACCESS_TOKEN
from broker.protocols.http.follower import Follower, Slow
from broker.protocols.http.operation import Answer, From, Operation, Parameter, Tag, header
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.problem import document
from broker.protocols.http.representation import dumps
from broker.protocols.http.router import Route
from broker.protocols.http.texts import Texts
from broker.protocols.http.websocket import Sockets

RECONNECT_MS = 2_000
_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_HEARTBEAT = b":\n\n"

TOPIC = Parameter(
    "topic",
    "A topic filter, any number of times; `*` stands for `+`, a last `**` for `#`.",
    {"type": "array", "items": {"type": "string", "minLength": 1}},
    example=["orders/**"],
)
SUBSCRIPTION = Parameter(
    "subscription", "A named stream, read from its cursor; `topic` narrows it, `from` is not for it."
)
SLOW = Parameter(
    "slow",
    "What becomes of a reader that is behind: it waits, is dropped with its position, or is handed only the latest"
    " message of each topic and key and told how many were left out (event `thinned`).",
    {"type": "string", "enum": [*Slow], "default": Slow.WAIT.value},
)
TOKEN = Parameter(
    ACCESS_TOKEN, "A token, for browsers, whose EventSource and WebSocket cannot send it as a header. Here alone."
)
FROM = From("from", "As for a piece of the log; `latest` when it is not given.")
LAST_EVENT_ID = header("Last-Event-ID", "The position of the last event seen; it goes before `from`.")
STREAM = Operation(
    Tag.READ,
    "Follow topics live",
    {
        101: Answer("A WebSocket, where `Upgrade: websocket` asks for one; STREAM.md says what is spoken."),
        200: Answer("Server-sent events until the client goes.", media="text/event-stream"),
    },
    "The first event, `start`, has `{recovered, position}` as data: `recovered: false` says that something between was"
    " removed or the log is another one. Messages have no event name and their position as id. The event `error`"
    " carries a problem document and is the last. A comment comes every 15 s.",
    (TOPIC, FROM, SUBSCRIPTION, SLOW, TOKEN, LAST_EVENT_ID),
)


def event(name: str, data: object, id_: str = "") -> bytes:
    """One event that is no message."""
    head = f"id: {id_}\n" if id_ else ""
    return f"{head}event: {name}\ndata: {dumps(data)}\n\n".encode()


def framed(chunk: bytes) -> bytes:
    """As a chunk of a chunked body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)


class Chunks:
    """The messages of a commit as events; the latest are remembered, as the next reader most often gets the same."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._rows: Sequence[Row] = ()
        self._epoch = ""
        self._plain = self._framed = b""

    def of(self, rows: Sequence[Row], epoch: str, *, chunked: bool) -> bytes:
        """Their events, one after the other."""
        if rows is not self._rows or epoch != self._epoch:
            text = self._texts.of
            parts = [b"id: %b.%d\ndata: %b\n\n" % (epoch.encode(), row[0], text(row, epoch)) for row in rows]
            self._plain = b"".join(parts)
            self._framed = framed(self._plain)
            self._rows, self._epoch = rows, epoch
        return self._framed if chunked else self._plain


class EventStream:
    """One response; the Line of its follower. `ended` resolves when nothing more comes."""

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, chunks: Chunks, epoch: str) -> None:
        self._connection = connection_of(request)
        self._chunked = response.chunked
        self._chunks = chunks
        self._epoch = epoch
        self.ended_by: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()

    @property
    def full(self) -> bool:
        """See Line."""
        return self._connection.writing_paused

    def hand(self, delivery: Delivery) -> None:
        """See Line."""
        self._write(self._chunks.of(delivery.rows, self._epoch, chunked=self._chunked))

    def thinned(self, left_out: int, offset: int) -> None:
        """See Line."""
        self._send(event("thinned", {"left_out": left_out, "position": f"{self._epoch}.{offset}"}))

    def ended(self, error: BrokerError | None) -> None:
        """See Line."""
        if not self.ended_by.done():
            self.ended_by.set_result(error or BrokerError(Code.SHUTTING_DOWN))

    def beat(self) -> None:
        """A comment, so that proxies and clients see a living stream."""
        if not self.full:
            self._send(_HEARTBEAT)

    def follow(self, follower: Follower | None) -> None:
        """Let this follower know what becomes of the connection."""
        connection = self._connection
        if follower is None:
            connection.on_resume = connection.on_stall = connection.on_dismiss = None
        else:
            connection.on_resume = follower.go_on
            connection.on_stall = follower.stalled
            connection.on_dismiss = follower.end

    def _send(self, chunk: bytes) -> None:
        self._write(framed(chunk) if self._chunked else chunk)

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)


class StreamRoutes:
    """Serves event streams, and passes WebSockets on."""

    def __init__(self, hub: Hub, options: HttpOptions) -> None:
        texts = Texts()
        self.sockets = Sockets(hub, options, texts)
        self._hub = hub
        self._options = options
        self._chunks = Chunks(texts)
        self._streams: dict[EventStream, Follower] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._streams)

    def routes(self) -> list[Route]:
        """What this module serves."""
        return [Route("GET", "/v1/stream", self.stream, "stream", STREAM, endless=True)]

    async def stream(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers events until the client goes."""
        if self._closed:
            raise BrokerError(Code.SHUTTING_DOWN)
        arrived(request)  # whatever body there is says nothing, and a stream lasts
        if request.headers.get("Upgrade", "").lower() == "websocket":
            _check_plain(request)
            return await self.sockets.serve(request)
        slow = Slow.of(request.query.get("slow", Slow.WAIT))
        response = web.StreamResponse(headers=_HEADERS)
        response.force_close()
        if request.version >= (1, 1):
            response.enable_chunked_encoding()
        stream = EventStream(request, response, self._chunks, self._hub.engine.epoch)
        follower = Follower(stream, slow, patience=self._options.slow_after, wall=self._hub.wall)
        attachment = self._attach(request, follower)
        try:
            await response.prepare(request)
            await response.write(self._opening(attachment))
            error = await self._run(stream, follower, attachment)
            with suppress(ConnectionError):
                await response.write(event("error", self._farewell(error, follower)))
        finally:
            follower.close()
            attachment.detach()
        return response

    def _attach(self, request: web.BaseRequest, follower: Follower) -> Attachment:
        query, principal = request.query, principal_of(request)
        topics, name = query.getall("topic", []), query.get("subscription")
        if name is None:
            return self._hub.follow(principal, parameters.filters(topics), _start(request), follower)
        if "from" in query:
            raise BrokerError(Code.BAD_OPTION, "a named stream is read from its cursor; leave out from")
        if self._hub.subscription(principal, name).spec.kind is not Kind.STREAM:
            raise BrokerError(Code.WRONG_KIND, f"{name} is a queue; receive from it, or follow its topics")
        return self._hub.attach(principal, name, follower, parameters.filters(topics) if topics else ())

    async def _run(self, stream: EventStream, follower: Follower, attachment: Attachment) -> BrokerError:
        self._streams[stream] = follower
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._options.heartbeat / 1000, self._beat)
        try:
            stream.follow(follower)
            follower.begin(attachment)
            return await stream.ended_by
        finally:
            stream.follow(None)
            del self._streams[stream]

    def _opening(self, attachment: Attachment) -> bytes:
        position = self._position(attachment.position)
        start = event("start", {"recovered": attachment.recovered, "position": position}, position)
        return b"retry: %d\n%b" % (RECONNECT_MS, start)

    def _farewell(self, error: BrokerError, follower: Follower) -> dict[str, object]:
        return document(error.code, error.detail) | {"position": self._position(follower.position)}

    def _position(self, offset: int) -> str:
        return f"{self._hub.engine.epoch}.{offset}"

    def _beat(self) -> None:
        self._timer = None
        for stream in self._streams:
            stream.beat()
        if self._streams:
            self._timer = asyncio.get_running_loop().call_later(self._options.heartbeat / 1000, self._beat)

    def close(self) -> None:
        """The door closes: everybody is told."""
        self._closed = True
        self.sockets.close()
        if self._timer is not None:
            self._timer.cancel()
        for follower in list(self._streams.values()):
            follower.end(BrokerError(Code.SHUTTING_DOWN))


def _check_plain(request: web.BaseRequest) -> None:
    """What a reader wants it says over the WebSocket. Raises BAD_REQUEST."""
    for name in request.query:
        if name != ACCESS_TOKEN:
            raise BrokerError(Code.BAD_REQUEST, f"{name} is for server-sent events; over a WebSocket, subscribe")


def _start(request: web.BaseRequest) -> Start:
    """Last-Event-ID goes before `from`: a browser that reconnects sends both."""
    last = request.headers.get("Last-Event-ID")
    if last:
        return parameters.start(last, "Last-Event-ID")
    return FROM.read(request.query, LATEST)
