"""Refusals in HTTP's tongue: problem documents (RFC 9457) with the code of `core/errors`. Floor 4."""

import json
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from broker.core.errors import KINDS, BrokerError, Code
from broker.protocols.http.reply import CLOSE, END, written

CONTENT_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="postroom", Basic realm="postroom", charset="UTF-8"'
"""What a client without credentials is told to send (RFC 9110 §11.6.1)."""


def retry_after(error: BrokerError) -> str | None:
    """The value of Retry-After (RFC 9110 §10.2.3), whole seconds; None where asking again would not help."""
    seconds = error.kind.again if error.retry_after is None else math.ceil(error.retry_after)
    return None if seconds is None else str(max(1, seconds))


def document(code: Code, detail: str = "", status: int | None = None) -> dict[str, Any]:
    """The problem document as a map. `status` where HTTP has a more exact one than the table."""
    kind = KINDS[code]
    values = {
        "type": f"urn:postroom:problem:{code.value}",
        "title": kind.sentence,
        "status": status or kind.http,
        "code": code.value,
    }
    return {**values, "detail": detail} if detail else values


def _told(error: BrokerError, status: int | None) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the response that tells an error."""
    values = document(error.code, error.detail, status)
    headers = {}
    after = retry_after(error)
    if after is not None:
        headers["Retry-After"] = after
    if error.code is Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = CHALLENGE
    return values["status"], json.dumps(values, ensure_ascii=False).encode(errors="replace"), headers


def problem(
    error: BrokerError, status: int | None = None, headers: Mapping[str, str] | None = None, *, close: bool = False
) -> web.Response:
    """The response that tells an error; one whose kind closes, or `close`, ends the connection after it."""
    told, body, more = _told(error, status)
    response = web.Response(body=body, status=told, headers={**(headers or {}), **more}, content_type=CONTENT_TYPE)
    if close or error.kind.closes:
        response.force_close()
    return response


def raw_problem(error: BrokerError, status: int | None = None, more: str = "", *, close: bool = True) -> bytes:
    """The same as bytes, where aiohttp has no request that it could answer. `more`: further lines of the head."""
    told, body, headers = _told(error, status)
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return written(told, CONTENT_TYPE, body, more + lines, CLOSE if close else END)
