"""Which handler a request goes to.

Every path of the API has at most one variable part, so that a route is what stands before and after it; the part may
hold slashes (topics do) and is percent-decoded here, once and strictly. Measured on one core, aiohttp's own Application
costs 14 µs of the 49 µs of an empty request; this takes 1. Floor 4.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.protocols.http.operation import Operation

if TYPE_CHECKING:
    from broker.protocols.http.exchange import Exchange

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
"""Takes the request and the decoded variable part of its path ("" when it has none)."""
Prompt = Callable[["Exchange"], None]
"""The same without a task, for requests that are here to their end; raises what it refuses."""
REMEMBERED, REMEMBERED_LENGTH = 4_096, 256
"""How many paths are remembered, and how long they may be."""


@dataclass(frozen=True, slots=True)
class Route:
    """`path` such as `/livez` or `/v1/queues/{name}/receive`. `name` labels metrics, `operation` is its entry in the
    reference: no route is without. `prompt` is a quicker way for what the handler does. An `open` one is for everybody:
    nobody is asked who they are. HEAD is answered by a GET route without its body, but by none that is `endless`, whose
    answer is a stream or becomes another protocol."""

    method: str
    path: str
    handler: Handler
    name: str
    operation: Operation
    prompt: Prompt | None = None
    open: bool = False
    endless: bool = False


class MethodNotAllowedError(Exception):
    """The path is known, the method is not; `allowed` are (RFC 9110 §15.5.6)."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(self.allowed)


class Router:
    """Finds routes; those with the longest fixed beginning, then end, are tried first."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._open: dict[str, dict[str, dict[str, Route]]] = {}  # before -> after -> method -> route
        self._routes: list[Route] = []
        self._found: dict[str, tuple[dict[str, Route], str]] = {}  # paths asked for lately

    def add(self, route: Route) -> None:
        """Raises ValueError when another route has the same method and path."""
        self._found.clear()
        before, brace, rest = route.path.partition("{")
        if brace:
            methods = self._open.setdefault(before, {}).setdefault(rest.partition("}")[2], {})
            self._open = {
                before: dict(sorted(ends.items(), key=_longest_first))
                for before, ends in sorted(self._open.items(), key=_longest_first)
            }
        else:
            methods = self._exact.setdefault(route.path, {})
        if methods.setdefault(route.method, route) is not route:
            raise ValueError(f"two routes for {route.method} {route.path}")
        self._routes.append(route)

    def __iter__(self) -> Iterator[Route]:
        """All routes, in the order in which they were added."""
        return iter(self._routes)

    def find(self, method: str, raw_path: str) -> tuple[Route, str]:
        """The route and the variable part. Raises BrokerError(NOT_FOUND, BAD_REQUEST), MethodNotAllowedError."""
        found = self._found.get(raw_path)
        methods, part = found or self._look_up(raw_path)
        route = methods.get(method) or (_of_head(methods) if method == "HEAD" else None)
        if route is None:
            raise MethodNotAllowedError(methods if _of_head(methods) is None else {*methods, "HEAD"})
        return route, part

    def remembered(self, method: str, raw_path: str) -> tuple[Route, str] | None:
        """The same for what was found lately."""
        found = self._found.get(raw_path)
        route = None if found is None else found[0].get(method)
        return None if found is None or route is None else (route, found[1])

    def _look_up(self, raw_path: str) -> tuple[dict[str, Route], str]:
        methods = self._exact.get(raw_path)
        found = self._find_open(raw_path) if methods is None else (methods, "")
        if len(raw_path) <= REMEMBERED_LENGTH:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            self._found[raw_path] = found
        return found

    def _find_open(self, raw_path: str) -> tuple[dict[str, Route], str]:
        for before, ends in self._open.items():
            if not raw_path.startswith(before):
                continue
            for after, methods in ends.items():
                end = len(raw_path) - len(after)
                if end > len(before) and raw_path.endswith(after):
                    return methods, _decoded(raw_path[len(before) : end])
        raise BrokerError(
            Code.NOT_FOUND, f"no path {raw_path!r}; the API begins with /v1/topics/TOPIC/messages, /docs shows it"
        )


def _of_head(methods: Mapping[str, Route]) -> Route | None:
    route = methods.get("GET")
    return None if route is None or route.endless else route


def _longest_first(item: tuple[str, object]) -> int:
    return -len(item[0])


def _decoded(part: str) -> str:
    if "%" not in part:
        return part
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise BrokerError(Code.BAD_REQUEST, f"{part!r} does not decode to UTF-8") from None
