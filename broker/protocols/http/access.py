"""Who asks, and whether a web page of somebody else's made them ask.

A browser could be made to speak for a foreign page: by a form or fetch (told by its Origin), with what browsers send by
themselves, a remembered password or a certificate; and while clients of this machine need no token, by a name that
resolves to 127.0.0.1 (told by its Host). Both are refused here, unless the page's origin is in `http.origins`, and the
name in `http.hosts` or in the certificate that this door shows. Floor 4.
"""

import re
import secrets
from collections.abc import Mapping
from ipaddress import ip_address
from itertools import count
from time import perf_counter

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from broker.auth.identity import LOCALLY
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.net.address import host_port
from broker.net.tls import Tls
from broker.observe.access import access, access_wanted, shown_path, shown_query
from broker.observe.metrics import RequestCollector
from broker.observe.trace import TRACEPARENT, trace_id
from broker.protocols.http import cors
from broker.protocols.http.connection import Connection
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.parameters import REQUEST_ID

GONE = 0
"""Counted as the status of a request whose client went away before it was answered."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection that a request came on."""
    return request.protocol  # type: ignore[return-value]  # a cast would cost a call, many times a request


def principal_of(request: web.BaseRequest) -> Principal:
    """Who asks; the server has made sure that it is known."""
    principal = connection_of(request).principal
    assert principal is not None
    return principal


class RequestLog:
    """What is remembered of requests: their ids, a line each, and figures."""

    def __init__(self, requests: RequestCollector) -> None:
        self._requests = requests
        self._run, self._numbers = secrets.token_hex(4), count(1)  # ids of requests are unique over restarts

    def request_id(self, headers: Mapping[str, str]) -> str:
        """What the client calls its request, by Postroom-Request-Id or X-Request-Id; one of our own when it does not,
        or by something that nobody would want in a log."""
        given = headers.get(REQUEST_ID) or headers.get("X-Request-Id")
        return given if given and _REQUEST_ID.fullmatch(given) else f"{self._run}-{next(self._numbers):x}"

    def ended(
        self, connection: Connection, message: RawRequestMessage, route: str, status: int, begun: float, code: str
    ) -> None:
        """A request was answered. `begun`: by `perf_counter`, as the loop's own time moves once per turn."""
        seconds = perf_counter() - begun
        self._requests.count(route, status, seconds)
        failed = status >= 400
        if not access_wanted(failed=failed):
            return
        access(
            "request",
            failed=failed,
            door="http",
            address=host_port(connection.address, connection.port),
            principal=connection.principal and connection.principal.name,
            method=message.method[:20],
            path=shown_path(message.url.raw_path),
            query=shown_query(message.url.query.items()),
            status=status,
            code=code,
            seconds=round(seconds, 6),
            request_id=connection.request_id,
            trace=trace_id(message.headers.get(TRACEPARENT, "")),
        )


def arrived(request: web.BaseRequest) -> None:
    """The body was read: the request's deadline is kept."""
    connection_of(request).arrived()


class Origins:
    """Which names of this door, and which pages, are trusted."""

    def __init__(self, options: HttpOptions, tls: Tls | None = None) -> None:
        self._hosts = {"localhost", *(host.lower() for host in options.hosts)}
        self._pages = frozenset(options.origins)
        self._tls = tls
        self._seen: set[str] = set()  # Host headers found good, to look at each once

    def usual(self, connection: Connection, headers: Mapping[str, str]) -> bool:
        """Is it surely no foreign page that asks? False: `check` knows."""
        known = connection.greeted is not LOCALLY or headers.get("Host", "") in self._seen
        return known and "Origin" not in headers

    def check(self, request: web.BaseRequest) -> None:
        """Lets the pages of other origins that may ask see the answer. Raises FORBIDDEN."""
        host = request.headers.get("Host", "")
        if host not in self._seen and connection_of(request).greeted is LOCALLY:
            self._check_host(host)
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            if origin.lower() not in self._pages:
                raise BrokerError(
                    Code.FORBIDDEN, f"pages of {origin[:100]!r} may not use this broker; http.origins says which may"
                )
            cors.allow(request, origin)

    def _check_host(self, host: str) -> None:
        name = host.lower()
        if not name.endswith("]"):
            name = name.rpartition(":")[0] or name
        known = not name or name in self._hosts or name.endswith(".localhost") or _is_address(name)
        if not known and not (self._tls is not None and self._tls.certificate.covers(name)):
            raise BrokerError(Code.FORBIDDEN, f"Host {host[:100]!r} is not a name of this broker; add it to http.hosts")
        if len(self._seen) < 100:
            self._seen.add(host)


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
