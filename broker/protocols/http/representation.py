"""How messages, subscriptions and times look in JSON: the one place that knows the shape.

Bodies that are JSON are put into the answer as they were published, byte for byte, so that no number is rounded and no
key is moved; what merely claims to be JSON goes as base64. Floor 4.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from broker.core.message import Message, Row
from broker.core.spec import shown_values
from broker.engine.base import SubscriptionInfo
from broker.hub import Published

_TEXT = (
    "application/x-www-form-urlencoded",
    "application/x-ndjson",
    "application/xml",
    "application/yaml",
    "application/javascript",
)
_LATEST = 253_402_300_799_999  # the last millisecond that RFC 3339 can say
COUNTS = tuple(f.name for f in fields(SubscriptionInfo) if f.name != "spec")
"""What a subscription's answer says beside its settings; none of it can be set."""


dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""Compact JSON; NaN and infinities are refused (RFC 8259 §6)."""


def loads(text: str) -> Any:
    """The value of JSON text. Raises ValueError, for NaN and infinities too, and RecursionError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def check_sayable(value: Any, text: str) -> None:
    """Raises ValueError for what JSON `text` can write and UTF-8 cannot say, half of a surrogate pair: it could not be
    said back."""
    if "\\u" in text:
        dumps(value).encode()


def value_of(body: bytes) -> Any:
    """The value of a body that is JSON and can be said back. Raises ValueError, RecursionError."""
    text = body.decode()
    value = loads(text)
    check_sayable(value, text)
    return value


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=dumps(value).encode(), status=status, content_type="application/json")


def moment(ms: int) -> str:
    """Unix milliseconds as an RFC 3339 time in UTC."""
    seconds, thousandths = divmod(min(ms, _LATEST), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{thousandths:03}Z"


def message_json(row: Row, epoch: str, **more: Any) -> str:
    """One message as JSON text on one line; `more` (attempt, receipt) goes before the body."""
    message = Message.of(row, epoch)
    values: dict[str, Any] = {
        "id": message.id,
        "offset": message.offset,
        "position": message.position,
        "topic": message.topic,
        "key": message.key,
        "headers": message.headers,
        "content_type": message.content_type,
        "priority": message.priority,
        "published_at": moment(message.published_at),
    }
    if message.expires_at is not None:
        values["expires_at"] = moment(message.expires_at)
    if message.history:
        values["history"] = [entry | {"at": moment(entry["at"])} for entry in message.history]
    if message.source is not None:
        values["source"] = message.source
    name, body = _body(message.body, message.content_type)
    return f'{dumps(values | more)[:-1]},"{name}":{body}}}'


def messages_json(texts: list[str], **more: Any) -> bytes:
    """`{"messages": [...], …}` of messages that are JSON text already."""
    tail = f",{dumps(more)[1:-1]}" if more else ""
    return f'{{"messages":[{",".join(texts)}]{tail}}}'.encode()


def _body(body: bytes, content_type: str | None) -> tuple[str, str]:
    """The name of the member (`body` or `body_base64`) and its JSON text."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        text = _as_json(body)
    elif kind.startswith("text/") or kind in _TEXT or kind.endswith("+xml"):
        text = _as_text(body)
    else:
        text = None
    return ("body_base64", f'"{b64encode(body).decode()}"') if text is None else ("body", text)


def _as_json(body: bytes) -> str | None:
    try:
        text = body.decode()
        loads(text)
    except (ValueError, RecursionError):
        return None
    # Line breaks stand only between tokens here, never within a string.
    return text.strip().replace("\n", " ").replace("\r", " ")


def _as_text(body: bytes) -> str | None:
    try:
        return dumps(body.decode())
    except UnicodeDecodeError:
        return None


def receipt_json(published: Published) -> bytes:
    """What a publisher is told."""
    return _receipt(published).encode()


def receipts_json(published: Sequence[Published]) -> bytes:
    """The same for many."""
    return f'{{"receipts":[{",".join(map(_receipt, published))}]}}'.encode()


def done_json(published: Sequence[Published], revisions: Sequence[int]) -> bytes:
    """What became of a unit."""
    receipts = ",".join(map(_receipt, published))
    return f'{{"receipts":[{receipts}],"revisions":{dumps(list(revisions))}}}'.encode()


def _receipt(published: Published) -> str:
    """Written by hand: this is on the path of every publish."""
    if published.offset is None:
        return _receipt_without_offset(published)
    duplicate = "true" if published.duplicate else "false"
    return (
        f'{{"id":{dumps(published.id)},"offset":{published.offset},"position":"{published.position}",'
        f'"duplicate":{duplicate}}}'
    )


def _receipt_without_offset(published: Published) -> str:
    values = {"id": published.id, "offset": None, "position": None, "duplicate": published.duplicate}
    due = {} if published.due is None else {"due": moment(published.due)}
    return dumps(values | due)


def subscription_values(info: SubscriptionInfo) -> dict[str, Any]:
    """Name, settings as they were written but for secrets, and counts."""
    values = {"name": info.spec.name} | shown_values(info.spec) | {name: getattr(info, name) for name in COUNTS}
    if info.oldest_at is not None:
        values["oldest_at"] = moment(info.oldest_at)
    return values
