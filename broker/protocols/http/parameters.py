"""What requests say, read and checked: headers, queries, bodies. Pure but for reading the body. Floor 4.

URL decoding mangles topic filters (`+` becomes a space, what follows `#` is never sent), so that in a query `*` and
`**` stand for them; a filter that was mangled is refused with its right spelling rather than silently read as another.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from aiohttp import ClientPayloadError, hdrs, web
from pydantic import ValidationError

from broker.core.duration import parse_duration
from broker.core.errors import BrokerError, Code
from broker.core.position import Start
from broker.core.topic import check_filter
from broker.observe.trace import TRACEPARENT, TRACESTATE, trace_context
from broker.protocols.http import cloudevents
from broker.protocols.http.compression import Unpacker
from broker.protocols.http.connection import Connection
from broker.protocols.http.representation import value_of

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy


class Bound(NamedTuple):
    """How long a body may be."""

    size: int
    setting: str = ""
    """The line of the configuration that says so; none for what is fixed."""

    def __str__(self) -> str:
        return f"{self.size} bytes" + (f" ({self.setting})" if self.setting else "")


MAX_JSON = Bound(4 << 20)
"""Bytes of a request body that is a command rather than a message."""
MAX_PARTS = 1_000
"""Pieces in which a body is kept while it arrives; one that comes byte by byte would take forty times its size."""
CHUNKED = "chunked"
"""The one Transfer-Encoding that is read."""
REQUEST_ID = "postroom-request-id"
"""The header of a request's own id, in small letters; no option of a message."""

_OPTIONS = "Postroom-Id, -Key, -Priority, -Delay, -Ttl and Postroom-Header-NAME"
_OF_THE_REQUEST = frozenset(("host", "content-length", "user-agent", "accept", "accept-encoding", "connection"))
"""Headers that most requests have and no message wants; passed over at once."""

# Bodies


async def read_body(request: web.BaseRequest, limit: Bound) -> bytes:
    """The whole body, unpacked when Content-Encoding says so. Raises MESSAGE_TOO_LARGE before reading what announces
    itself as too long, and of any other as soon as it is; BAD_REQUEST when the encoding is broken; ConnectionError."""
    content = request.content
    length = request.content_length
    if length is not None and length > limit.size:
        raise too_large(limit, length)
    packed = request.headers.get(hdrs.TRANSFER_ENCODING, CHUNKED)
    if packed.strip().lower() != CHUNKED:  # RFC 9112 §6.1; aiohttp would give it as it came
        raise BrokerError(Code.BAD_REQUEST, f"Transfer-Encoding {packed[:50]!r}: send chunked alone")
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    unpacker = None if coding == "identity" else Unpacker(coding, limit.size)
    try:
        if content.is_eof():
            body = content.read_nowait()
            if unpacker is not None:
                body = unpacker.feed(body)
        else:
            body = await _rest(request, limit, unpacker)
    except (web.RequestPayloadError, ClientPayloadError) as error:
        raise BrokerError(Code.BAD_REQUEST, f"the body cannot be read: {error}") from None
    if len(body) > limit.size:
        raise too_large(limit)
    if unpacker is not None:
        unpacker.end()
    return body


async def _rest(request: web.BaseRequest, limit: Bound, unpacker: Unpacker | None) -> bytes:
    """A body that is still on its way."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    connection, parts, size, came = cast(Connection, request.protocol), [], 0, 0
    try:
        while part := await request.content.readany():
            came += len(part)
            if came > limit.size:  # packed, too: what unpacks to nothing would never end
                raise too_large(limit)
            if unpacker is not None:
                async with connection.unpacking:
                    part = unpacker.feed(part)
                    connection.unpacked(size + len(part))
                    await asyncio.sleep(0)
            size += len(part)
            if size > limit.size:
                raise too_large(limit)
            parts.append(part)
            if len(parts) > MAX_PARTS:
                parts = [b"".join(parts)]
            connection.unpacked(size)
    except RuntimeError as error:  # aiohttp's word for a connection that ended in the middle of a chunk
        raise ConnectionResetError(str(error)) from None
    else:
        return b"".join(parts)
    finally:  # an error holds this frame, in a cycle that is collected late, and with it what came of the body
        parts, part = [], b""


def too_large(limit: Bound, size: int | None = None) -> BrokerError:
    """The refusal of a body that is; `size` when it is known."""
    known = f"it is {size} bytes, the limit is {limit}"
    return BrokerError(Code.MESSAGE_TOO_LARGE, f"it is over the limit of {limit}" if size is None else known)


async def read_json(request: web.BaseRequest) -> Any:
    """The body as a JSON value, whatever its Content-Type says. Raises BAD_REQUEST, MESSAGE_TOO_LARGE; what Python
    reads and JSON or UTF-8 cannot say (NaN, half of a surrogate pair) is refused too: it could not be said back."""
    body = await read_body(request, MAX_JSON)
    try:
        return value_of(body)
    except (ValueError, RecursionError) as error:
        raise BrokerError(Code.BAD_REQUEST, f"the body is not JSON: {error}") from None


# Headers


def publish_options(headers: "CIMultiDictProxy[str]") -> dict[str, Any]:
    """The options of a publish. Raises BAD_OPTION for unknown, repeated or ill-formed `Postroom-*` headers, BAD_MESSAGE
    for those of a CloudEvent that is none."""
    options: dict[str, Any] = {}
    own: dict[str, str] = {}
    event: dict[str, str] = {}
    traced = False
    for name, value in headers.items():
        lower = name.lower()
        if lower in _OF_THE_REQUEST:
            continue
        if lower == "content-type":
            _once(options, "content_type", value, name)
        elif lower == TRACEPARENT:
            traced = True
        elif lower == "idempotency-key":
            _once(options, "id", _unquoted(value), name)
        elif lower.startswith(cloudevents.PREFIX):
            _once(event, lower[3:], value, name)
        elif lower.startswith("postroom-header-"):
            _once(own, lower[16:], value, name)
        elif lower.startswith("postroom-") and lower != REQUEST_ID:
            option, checked = _option(lower[9:], value, name)
            _once(options, option, checked, name)
    if traced:  # a header that is given as the message's own goes before
        own = {**trace_of(headers), **own}
    if own:
        options["headers"] = own
    return with_event(cloudevents.from_headers(event), options) if "specversion" in event else options


def trace_of(headers: "CIMultiDictProxy[str]") -> dict[str, str]:
    """The headers that a message gets of the trace of its request."""
    return trace_context(headers.getall(TRACEPARENT, ()), headers.getall(TRACESTATE, ()))


def with_event(event: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says of itself, and what the request says of it beside that, which goes before."""
    headers = {**event.get("headers", {}), **options.get("headers", {})}
    return {**event, **options, "headers": headers}


def _once(values: dict[str, Any], key: str, value: Any, name: str) -> None:
    if key in values or not key:
        raise BrokerError(Code.BAD_OPTION, f"{name} is given twice" if key else f"{name} has no name after it")
    values[key] = value


def _option(option: str, value: str, name: str) -> tuple[str, Any]:
    if option in ("id", "key"):
        return option, value
    if option in ("delay", "ttl"):
        return option, duration(value, name)
    if option == "priority":
        return option, whole(value, name, 0, 9)
    raise BrokerError(Code.BAD_OPTION, f"no header {name}; there are {_OPTIONS}")


def without_options(headers: Mapping[str, str], *refused: str) -> None:
    """A request with many messages has no place for what describes one. Raises BAD_OPTION naming such a header, or
    one of those `refused` (in small letters)."""
    for name in headers:
        lower = name.lower()
        if (lower.startswith("postroom-") and lower != REQUEST_ID) or lower in refused:
            raise BrokerError(Code.BAD_OPTION, f"{name} describes one message; write that into the items of the body")


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """What makes a retry safe (draft-ietf-httpapi-idempotency-key-header): a text, in quotes as the draft has it or
    bare."""
    value = headers.get("Idempotency-Key")
    return None if value is None else _unquoted(value)


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] == '"'
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value


def media_type(request: web.BaseRequest) -> str:
    """Of the body, in small letters and without parameters; "" when none is given."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def refusal_of(error: ValidationError, hint: str) -> BrokerError:
    """What does not fit, as the first error of a model says it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return BrokerError(Code.BAD_REQUEST, f"the body is not JSON: {first['msg'].partition(': ')[2]}; {hint}")
    place = ".".join(str(part) for part in first["loc"])
    return BrokerError(Code.BAD_REQUEST, f"{place}: {first['msg']}; {hint}" if place else f"{first['msg']}; {hint}")


# Single values


def duration(text: str, name: str) -> int:
    """Milliseconds from seconds (`30`, `0.5`) or a form such as `30s`. Raises BAD_OPTION."""
    bare = text.replace(".", "", 1)
    number = len(text) <= 20 and bare.isascii() and bare.isdecimal()
    return parse_duration(float(text) if number else text, name)


def whole(text: str, name: str, low: int, high: int) -> int:
    """A whole number within bounds. Raises BAD_OPTION."""
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else -1
    if not low <= value <= high:
        raise BrokerError(Code.BAD_OPTION, f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return value


def start(text: str, name: str = "from") -> Start:
    """Where to begin reading. Raises BAD_POSITION, which says so when URL decoding took the `+` out of a time."""
    if " " in text:
        raise BrokerError(Code.BAD_POSITION, f"{name}={text!r} holds a space; write + in a URL as %2B")
    return Start.parse(text)


# Queries


def known(query: Mapping[str, str], names: Iterable[str]) -> None:
    """Raises BAD_REQUEST for a parameter that the path does not have."""
    for name in query:
        if name not in names:
            raise BrokerError(Code.BAD_REQUEST, f"no parameter {name!r}; there are {', '.join(names) or 'none'}")


def filters(texts: Iterable[str]) -> list[str]:
    """Topic filters as they stand in a query. Raises BAD_FILTER with the right spelling of a mangled one."""
    found = [_filter(text) for text in texts]
    if not found:
        raise BrokerError(Code.BAD_FILTER, "name at least one: ?topic=orders/**")
    return found


def _filter(text: str) -> str:
    if not text:
        raise BrokerError(Code.BAD_FILTER, "it is empty; for every topic write topic=**")
    if " " in text:
        meant = text.replace(" ", "*")
        raise BrokerError(Code.BAD_FILTER, f"{text!r} holds a space; for the wildcard + write {meant}")
    if text.endswith("/"):
        raise BrokerError(Code.BAD_FILTER, f"{text!r} ends in a slash; for the wildcard # write {text}**")
    levels = text.split("/")
    for level in levels[:-1]:
        if level == "**":
            raise BrokerError(Code.BAD_FILTER, f"{text!r}: '**' must be the whole last level")
    return check_filter("/".join({"*": "+", "**": "#"}.get(level, level) for level in levels))
