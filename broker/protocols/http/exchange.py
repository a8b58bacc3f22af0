"""A request that is answered without a task: the bytes lead to the hub by calls, and the engine's call to the answer.

A publish waits for one thing alone, its commit, and its body mostly comes with its head; a task, a future and aiohttp's
objects for request and response cost more than all else that is done for it. What is in any way unusual goes the
ordinary way (`HttpServer`), which is where refusals before the deed are told. Floor 4.
"""

import logging
from time import perf_counter
from typing import Any

from aiohttp import HttpVersion11, hdrs
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.observe.origin import ORIGIN
from broker.protocols.http.access import GONE, Origins, RequestLog
from broker.protocols.http.authorization import Authorization
from broker.protocols.http.connection import Connection
from broker.protocols.http.parameters import CHUNKED, Bound, too_large
from broker.protocols.http.problem import raw_problem
from broker.protocols.http.reply import END, JSON, written
from broker.protocols.http.router import Route, Router

_logger = logging.getLogger(__name__)
SERVER = "postroom"


class Exchange:
    """One request and its answer, which is given once: what comes after it is passed over."""

    __slots__ = ("_begun", "_log", "_message", "_over", "_payload", "_route", "connection", "headers", "part")

    def __init__(
        self,
        log: RequestLog,
        connection: Connection,
        message: RawRequestMessage,
        payload: StreamReader,
        route: Route,
        part: str,
    ) -> None:
        self.connection = connection
        self.headers = message.headers
        self.part = part
        """The variable part of its path."""
        self._payload = payload
        self._message = message
        self._route = route
        self._log = log
        self._over = False

    def body(self, limit: Bound) -> bytes:
        """All of it. Raises MESSAGE_TOO_LARGE."""
        body = self._payload.read_nowait()
        if len(body) > limit.size:
            raise too_large(limit, len(body))
        return body

    @property
    def principal(self) -> Principal:
        """Who asks."""
        principal = self.connection.principal
        assert principal is not None
        return principal

    def begin(self) -> None:
        """See Prompt."""
        connection = self.connection
        connection.began(whole=True)
        connection.request_id = self._log.request_id(self.headers)
        connection.commits(self.refuse)
        ORIGIN.set(connection)
        self._begun = perf_counter()
        try:
            assert self._route.prompt is not None
            self._route.prompt(self)
        except BrokerError as error:
            self.refuse(error)
        except Exception:
            _logger.exception("HTTP request failed", extra={"route": self._route.name})
            self.refuse(BrokerError(Code.INTERNAL))

    def reply(self, text: bytes, status: int) -> None:
        """Answer with JSON."""
        if self._ended(status, ""):
            self.connection.answered(written(status, JSON, text, self._own_lines(), END))

    def refuse(self, error: BrokerError) -> None:
        """Answer with a problem document."""
        if self._ended(error.kind.http, error.code.value):
            close = error.kind.closes
            self.connection.answered(raw_problem(error, more=self._own_lines(), close=close), close=close)

    def lost(self) -> None:
        """See Prompt."""
        self._ended(GONE, "")

    def _own_lines(self) -> str:
        return f"Server: {SERVER}\r\nPostroom-Request-Id: {self.connection.request_id}\r\n"

    def _ended(self, status: int, code: str) -> bool:
        """False when it was over already."""
        if self._over:
            return False
        self._over = True
        self.connection.committed()
        self.connection.ended(whole=True)
        self._log.ended(self.connection, self._message, self._route.name, status, self._begun, code)
        return True


class Exchanges:
    """Knows a request that can be answered without a task."""

    def __init__(self, router: Router, origins: Origins, authorization: Authorization, log: RequestLog) -> None:
        self._router = router
        self._origins = origins
        self._authorization = authorization
        self._log = log

    def of(self, connection: Connection, message: Any, payload: StreamReader) -> Exchange | None:
        """None for what is not here to its end, has anything about it that must be looked at, or is asked for the first
        time: it goes the ordinary way."""
        if type(message) is not RawRequestMessage or not payload.is_eof() or payload.exception() is not None:
            return None
        headers = message.headers
        if message.version != HttpVersion11 or message.should_close or message.upgrade:
            return None
        if message.chunked and headers.get(hdrs.TRANSFER_ENCODING) != CHUNKED:
            return None
        if "?" in message.path or hdrs.EXPECT in headers or hdrs.CONTENT_ENCODING in headers:
            return None
        if not self._origins.usual(connection, headers) or not self._authorization.stands(connection, headers):
            return None
        found = self._router.remembered(message.method, message.url.raw_path)
        if found is None or found[0].prompt is None:
            return None
        return Exchange(self._log, connection, message, payload, *found)
