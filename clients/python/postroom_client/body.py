"""Bodies as people have them, and as bytes: `bytes` stay, `str` is text, everything else is JSON.

Typed bodies go through a decoder: any callable of the bytes (`Order.model_validate_json`, `orjson.loads`), or a type.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeAlias, get_origin

from postroom_client.errors import DecodeFailed

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

Decoder: TypeAlias = Callable[[bytes], Any]
"""Turns the bytes of a body into a value; may raise anything."""


def encode_body(body: Any) -> tuple[bytes, str | None]:
    """The bytes of a body and the content type that tells how to read them (None: opaque bytes).

    Raises TypeError or ValueError for what JSON cannot say."""
    kind = type(body)
    if kind is bytes:
        return body, None
    if kind is str:
        return body.encode(), TEXT
    if isinstance(body, bytearray | memoryview):
        return bytes(body), None
    if hasattr(body, "model_dump_json"):
        return body.model_dump_json().encode(), JSON
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=_plain).encode(), JSON


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON; pass bytes, or a dict of plain values")


def decode_body(body: bytes, content_type: str | None) -> Any:
    """By content type: JSON becomes its value, text becomes str, all else stays bytes. Raises DecodeFailed."""
    if content_type is None:
        return body
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON or kind.endswith("+json"):
        return _read(json.loads, body, "JSON")
    if kind.startswith("text/"):
        return _read(bytes.decode, body, "UTF-8 text")
    return body


def decode_with(decoder: Decoder, body: bytes) -> Any:
    """Run a decoder; whatever it raises becomes DecodeFailed."""
    return _read(decoder, body, getattr(decoder, "__name__", "what the decoder reads"))


def _read(read: Callable[[bytes], Any], body: bytes, what: str) -> Any:
    try:
        return read(body)
    except Exception as error:
        raise DecodeFailed(f"the body is not {what}: {error}") from error


def decoder_of(wanted: Any) -> Decoder:
    """The decoder that a type or callable stands for.

    A type with `model_validate_json` (pydantic) reads itself; a dataclass takes the keys of a JSON object; `dict`,
    `list`, `int`, `float`, `bool` and their generic and typed-dict forms are JSON; `str` is UTF-8; other callables
    are handed the bytes.
    """
    if wanted is bytes:
        return bytes
    if wanted is str:
        return bytes.decode
    if hasattr(wanted, "model_validate_json"):
        read: Decoder = wanted.model_validate_json
        return read
    if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
        build: Callable[..., Any] = wanted
        return _named(lambda body: build(**json.loads(body)), wanted)
    if wanted is Any or get_origin(wanted) is not None or hasattr(wanted, "__required_keys__"):
        return _named(json.loads, wanted)
    if wanted in (dict, list, int, float, bool):
        return _named(lambda body: _exactly(json.loads(body), wanted), wanted)
    if callable(wanted):
        decoder: Decoder = wanted
        return decoder
    raise TypeError(f"{wanted!r} is no decoder; pass a callable of bytes, or a type")


def _exactly(value: Any, kind: type) -> Any:
    if isinstance(value, kind) or (kind is float and type(value) is int):
        return value
    raise TypeError(f"it holds {type(value).__name__}")


def _named(read: Callable[[bytes], Any], wanted: Any) -> Decoder:
    def decoder(body: bytes) -> Any:
        return read(body)

    decoder.__name__ = getattr(wanted, "__name__", str(wanted))
    return decoder
