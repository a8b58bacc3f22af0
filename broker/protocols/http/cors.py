"""What pages of other origins, those of `http.origins`, may see of an answer: CORS (WHATWG Fetch §3.2). Floor 4.

aiohttp asks a request before its answer's head is written, whoever writes it; that is where the headers are added.
"""

from typing import Annotated

from aiohttp import hdrs, web
from pydantic import StringConstraints

Origin = Annotated[str, StringConstraints(to_lower=True, pattern=r"^(?i)[a-z][a-z0-9+.-]*://[^\s/?#@*]+$")]
"""A page's origin as browsers write it: `https://app.example.com`, with the port where it is not the usual one. There
is no `*`: who may speak through a visitor's browser is named."""

_PAGE = web.RequestKey("page", str)
_METHODS = "GET, POST, PUT, DELETE"
_EXPOSED = "Allow, Content-Encoding, ETag, Location, Retry-After, traceparent, Postroom-Request-Id"
_PREFLIGHT_SECONDS = "600"


class Request(web.BaseRequest):
    """A request that knows from which page it comes."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        if hdrs.ORIGIN in self.headers and _PAGE in self:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = self[_PAGE]
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)


def allow(request: web.BaseRequest, page: str) -> None:
    """Let this page, which is one of `http.origins`, see the answer."""
    request[_PAGE] = page


def preflight(request: web.BaseRequest) -> web.Response | None:
    """The answer when a browser asks what an allowed page may send, before it sends it; it asks without credentials."""
    if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
        return None
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
        hdrs.ACCESS_CONTROL_MAX_AGE: _PREFLIGHT_SECONDS,
        hdrs.VARY: hdrs.ACCESS_CONTROL_REQUEST_HEADERS,
    }
    wanted = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
    if wanted is not None:  # Postroom-Header-NAME has any name, so there is no list to hold it to
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted
    return web.Response(status=204, headers=headers)
