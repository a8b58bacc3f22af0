"""The HTTP door: sockets, connections, and each request from its head to its answer.

It decides what all requests have in common: who may ask, which route answers, how a refusal is told, what is counted.
What a path means is left to the modules of routes. Built on aiohttp's low-level server (see `router`). Floor 4.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from broker.auth.doorkeeper import Doorkeeper, Trusting
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.net.address import address_of
from broker.net.admission import Admission
from broker.net.handshake import Listener, accept
from broker.net.listener import open_sockets
from broker.net.tls import Tls
from broker.observe.metrics import EngineCollector, LimitCollector, RequestCollector, registry
from broker.observe.origin import ORIGIN
from broker.protocols.http.access import GONE, Origins, RequestLog, connection_of
from broker.protocols.http.admin import AdminRoutes
from broker.protocols.http.authorization import Authorization
from broker.protocols.http.batch import BatchRoutes
from broker.protocols.http.connection import PLAIN, Clockwork, Connection
from broker.protocols.http.connections import ConnectionRoutes
from broker.protocols.http.cors import Request, preflight
from broker.protocols.http.cursor import CursorRoutes
from broker.protocols.http.docs import DocsRoutes
from broker.protocols.http.exchange import SERVER, Exchanges
from broker.protocols.http.keys import KeyRoutes
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.parameters import known
from broker.protocols.http.problem import problem
from broker.protocols.http.publish import PublishRoutes
from broker.protocols.http.queue import QueueRoutes
from broker.protocols.http.receiver import Receivers
from broker.protocols.http.router import MethodNotAllowedError, Route, Router
from broker.protocols.http.stream import StreamRoutes
from broker.protocols.http.subscriptions import SubscriptionRoutes
from broker.protocols.http.unit import UnitRoutes

_log = logging.getLogger(__name__)
UNROUTED = "(none)"
LINGER_SECONDS = 2.0
"""For how long the rest of a refused body is read and thrown away, so that the client sees the refusal."""


class _Request(Request):
    """Every answer to it says who answers, and to what."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        await super()._prepare_hook(response)
        response.headers["Server"] = SERVER
        response.headers["Postroom-Request-Id"] = connection_of(self).request_id


class _Server(web.Server):
    """aiohttp's server, making our connections."""

    def __init__(self, handler: Any, exchanges: Exchanges, clockwork: Clockwork, **options: Any) -> None:
        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return _Request(message, payload, protocol, writer, task, loop)

        super().__init__(handler, request_factory=request, handler_cancellation=True)
        self._shared = clockwork, exchanges.of
        self._options = options

    def __call__(self) -> Connection:
        return Connection(self, *self._shared, loop=asyncio.get_running_loop(), access_log=None, **self._options)


class HttpServer:
    """The door. `routes` are those of others (the daemon hands them in); `more` adds members to `/v1/status`;
    `secret` tells what a subscription's webhooks are signed with; `collected` is what `/metrics` says beside engine,
    process and door."""

    def __init__(
        self,
        hub: Hub,
        options: HttpOptions,
        *,
        admission: Admission | None = None,
        tls: Tls | None = None,
        doorkeeper: Doorkeeper | None = None,
        routes: Sequence[Route] = (),
        more: Callable[[], Mapping[str, Any]] = dict,
        secret: Callable[[str], Awaitable[str]] | None = None,
        collected: CollectorRegistry | None = None,
    ) -> None:
        self._hub = hub
        self._options = options
        self._admission = Admission(hub.limits, hub.flow.limited) if admission is None else admission
        self._doorkeeper = doorkeeper or Trusting()
        self._authorization = Authorization(self._doorkeeper)
        self._origins = Origins(options, tls)
        self._receivers = Receivers(hub)
        self._streams = StreamRoutes(hub, options)
        self._stopping = False
        self._server: _Server | None = None
        self._tls = tls
        self._listeners: list[Listener] = []
        requests = self._collector()
        self._log = RequestLog(requests)
        self.registry = collected or registry()
        self.registry.register(EngineCollector(hub.engine.stats, hub.engine.subscriptions, hub.wall))
        self.registry.register(LimitCollector(*hub.flow.measured()))
        self.registry.register(requests)
        self._router = Router()
        parts = (
            PublishRoutes(hub),
            BatchRoutes(hub),
            UnitRoutes(hub, self._receivers),
            QueueRoutes(hub, options, self._receivers),
            self._streams,
            SubscriptionRoutes(hub, secret or _no_secret),
            CursorRoutes(hub),
            KeyRoutes(hub),
            ConnectionRoutes(hub, self._admission),
            AdminRoutes(hub, self.registry, lambda: self._stopping, more),
            DocsRoutes(lambda: self.routes),
        )
        for route in [route for part in parts for route in part.routes()] + list(routes):
            self._router.add(route)
        self._open_paths = frozenset(route.path for route in self._router if route.open)

    def _collector(self) -> RequestCollector:
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "streams": ("Event streams that are open", lambda: len(self._streams)),
            "websockets": (
                "WebSockets of readers that are open; those of MQTT count at its door",
                lambda: len(self._streams.sockets),
            ),
            "leased": ("Messages that HTTP workers hold", self._receivers.holding),
        }
        return RequestCollector("http", gauges)

    # Life

    async def start(self, sockets: Sequence[socket.socket] | None = None) -> list[str]:
        """Listen (on `sockets` when given, else as the options say) and return the addresses, such as
        `127.0.0.1:7680`. Raises ListenError."""
        options, loop = self._options, asyncio.get_running_loop()
        self._clockwork = Clockwork(loop, self._admission, self._doorkeeper, options)
        self._server = _Server(
            self._handle,
            Exchanges(self._router, self._origins, self._authorization, self._log),
            self._clockwork,
            auto_decompress=False,
            keepalive_timeout=options.keepalive / 1000,
            lingering_time=LINGER_SECONDS,
            max_line_size=options.max_line,
            max_field_size=options.max_header,
            max_headers=options.max_headers,
        )
        opened = list(sockets) if sockets is not None else open_sockets("http", options.host, options.port)
        addresses = [address_of(sock) for sock in opened]
        for sock in opened:
            listener = await accept(
                sock, self._server, door="http", admission=self._admission, tls=self._tls, plain=PLAIN
            )
            self._listeners.append(listener)
        return addresses

    async def stop(self, grace: float = 5.0) -> None:
        """Take no more connections, tell streams and polls, give the requests at work `grace` seconds, close."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        self._streams.close()
        self._receivers.close()
        if self._server is not None:
            await asyncio.sleep(0)  # what has arrived is taken up before idle connections are closed
            self._server.pre_shutdown()
            await self._server.shutdown(grace)
            self._clockwork.close()

    @property
    def routes(self) -> list[Route]:
        """All that the door serves."""
        return list(self._router)

    @property
    def connections(self) -> list[Connection]:
        """Those that are open."""
        made = self._server.connections if self._server is not None else []
        return [c for c in made if isinstance(c, Connection) and c.transport is not None]

    # Each request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = connection_of(request)
        connection.began(whole=not request.body_exists)
        connection.request_id = self._log.request_id(request.headers)
        ORIGIN.set(connection)
        begun, name, status, code = perf_counter(), UNROUTED, GONE, ""
        response: web.StreamResponse | None
        try:
            self._origins.check(request)
            response = preflight(request)
            if response is None:
                path = request.rel_url.raw_path
                if path not in self._open_paths:
                    credentials = self._authorization.check(request)
                    if credentials is not None:
                        await self._authorization.prove(request, credentials)
                route, part = self._router.find(request.method, path)
                name = route.name
                if request.query_string:
                    known(request.query, route.operation.query)
                response = await route.handler(request, part)
        except asyncio.CancelledError:
            error = connection.interrupted
            if error is None:
                raise
            _uncancel(connection)
            response = problem(error)
            status, code = response.status, error.code.value
        except Exception as failure:  # each kind is told in its way; lost connections pass
            response = _refusal(failure, request)
            status, code = response.status, failure.code.value if isinstance(failure, BrokerError) else ""
        else:
            status = response.status
        finally:
            connection.ended(whole=request.content.is_eof())
            self._log.ended(connection, request._message, name, status, begun, code)
        return response


async def _no_secret(name: str) -> str:
    """Where there are no webhooks."""
    raise BrokerError(Code.NOT_FOUND, f"{name} has no webhook")


def _uncancel(connection: Connection) -> None:
    """The cancellation was our own, and has done its work."""
    connection.interrupted = None
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


def _refusal(error: Exception, request: web.BaseRequest) -> web.StreamResponse:
    """How an exception is told. Raises it again when nobody is there to be told, or an answer has begun."""
    if isinstance(error, ConnectionError) or request.writer.output_size > 0:
        raise error
    if isinstance(error, BrokerError):
        return problem(error)
    if isinstance(error, MethodNotAllowedError):
        refused = BrokerError(Code.BAD_REQUEST, f"{request.method} is not for this path; use {error.allowed}")
        return problem(refused, 405, {"Allow": error.allowed})
    _log.exception("HTTP request failed", extra={"method": request.method, "path": request.path[:200]})
    return problem(BrokerError(Code.INTERNAL))
