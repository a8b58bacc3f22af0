"""The reference: the OpenAPI document, and a page that shows it to people without any foreign host. Floor 4."""

from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files

from aiohttp import web

from broker.protocols.http.openapi import document
from broker.protocols.http.operation import Answer, Operation, Tag
from broker.protocols.http.representation import dumps
from broker.protocols.http.router import Handler, Route

_PAGE = {
    "/docs": ("reference.html", "text/html; charset=utf-8"),
    "/docs/reference.css": ("reference.css", "text/css; charset=utf-8"),
    "/docs/reference.js": ("reference.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

OPENAPI = Operation(
    Tag.BROKER,
    "This document",
    {200: Answer("OpenAPI 3.1.", media="application/vnd.oai.openapi+json")},
    "For generators of clients. `/docs` shows it to people.",
)

ROOT = Operation(Tag.BROKER, "Where people begin", {302: Answer("The reference page, `/docs`.")})


class DocsRoutes:
    """`all_routes` gives the routes that the document is made of."""

    def __init__(self, all_routes: Callable[[], Iterable[Route]]) -> None:
        self._document = cache(lambda: dumps(document(all_routes())).encode())

    def routes(self) -> list[Route]:
        """What this module serves."""
        found = [Route("GET", "/openapi.json", self.openapi, "openapi", OPENAPI, open=True)]
        found.append(Route("GET", "/", self.root, "root", ROOT, open=True))
        for path, (name, kind) in _PAGE.items():
            about = Operation(Tag.BROKER, f"The reference page, {name}", {200: Answer("The file.", media=kind)})
            label = f"docs_{name.rpartition('.')[2]}"
            found.append(Route("GET", path, _file(name, kind), label, about, open=True))
        return found

    async def root(self, _request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers where the reference page is."""
        return web.Response(status=302, headers={"Location": "/docs"})

    async def openapi(self, _request: web.BaseRequest, _: str) -> web.StreamResponse:
        """Answers the document, made once."""
        return web.Response(body=self._document(), headers={"Content-Type": OPENAPI.answers[200].media or ""})


def _file(name: str, kind: str) -> Handler:
    content = cache(files("broker.protocols.http").joinpath("reference", name).read_bytes)

    async def serve(_request: web.BaseRequest, _: str) -> web.StreamResponse:
        return web.Response(body=content(), headers={**_HEADERS, "Content-Type": kind})

    return serve
