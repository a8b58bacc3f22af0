"""Who asks, and whether a web page of somebody else's made them ask.

A browser could be made to speak for a foreign page: by a form or fetch (told by its Origin), with what browsers send by
themselves, a remembered password or a certificate; and while clients of this machine need no token, by a name that
resolves to 127.0.0.1 (told by its Host). Both are refused here, unless the page's origin is in `http.origins`, and the
name in `http.hosts` or in the certificate that this door shows. Floor 4.
"""

import re
from ipaddress import ip_address

from aiohttp import web

from broker.auth.identity import LOCALLY
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.net.address import host_port
from broker.net.tls import Tls
from broker.observe.access import access, shown_path, shown_query
from broker.observe.trace import TRACEPARENT, trace_id
from broker.protocols.http import cors
from broker.protocols.http.connection import Connection
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.parameters import REQUEST_ID

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")


def connection_of(request: web.BaseRequest) -> Connection:
    """The connection that a request came on."""
    return request.protocol  # type: ignore[return-value]  # a cast would cost a call, many times a request


def principal_of(request: web.BaseRequest) -> Principal:
    """Who asks; the server has made sure that it is known."""
    principal = connection_of(request).principal
    assert principal is not None
    return principal


def given_id(request: web.BaseRequest) -> str | None:
    """What the client calls its request, by Postroom-Request-Id or X-Request-Id; None when it does not, or by something
    that nobody would want in a log."""
    headers = request.headers
    given = headers.get(REQUEST_ID) or headers.get("X-Request-Id")
    return given if given and _REQUEST_ID.fullmatch(given) else None


def log_request(request: web.BaseRequest, status: int, seconds: float, code: str, failed: bool) -> None:
    """One line of the access log."""
    connection = connection_of(request)
    access(
        "request",
        failed=failed,
        door="http",
        address=host_port(connection.address, connection.port),
        principal=connection.principal and connection.principal.name,
        method=request.method[:20],
        path=shown_path(request.rel_url.raw_path),
        query=shown_query(request.query.items()),
        status=status,
        code=code,
        seconds=round(seconds, 6),
        request_id=connection.request_id,
        trace=trace_id(request.headers.get(TRACEPARENT, "")),
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
