"""What a message is, in the shape that costs least and in the shape that reads best.

On the path of a message it is a plain tuple, because a tuple is what SQLite binds and msgpack packs: a `Draft` before
the commit, a `Row` after it. Everything that most messages do not have (id, key, headers, content type, priority,
expiry) sits in `meta`, packed once where the message enters and passed on untouched; a flag byte in front says which
of the three that the queue machine asks for are there. Slow doors look at a message through `Message`. Floor 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, TypedDict

import msgpack

from broker.core.errors import BrokerError, Code

Draft = tuple[str, bytes | None, bytes]
"""(topic, meta, body): what a publisher hands in."""

Row = tuple[int, str, int, bytes | None, bytes]
"""(offset, topic, published_at in unix ms, meta, body): what the log holds and a consumer is handed."""

KEYED, PRIORITY, EXPIRES, NAMED = 1, 2, 4, 8
"""Flags in the first byte of meta: the message has a key, a priority over 0, an expiry, an id of its publisher's."""

MAX_HEADERS = 64
MAX_META_BYTES = 64 * 1024
MAX_ID_BYTES = 255
MAX_DELAY = 10**15
"""Bound of times to live and delays in ms: far beyond any use, and a sum with the clock fits 64 bits."""


class Meta(TypedDict, total=False):
    """What `meta` unpacks to. Absent means: not given. `mqtt` is what only MQTT can say and hear: see `core/mqtt`."""

    id: str
    key: str
    headers: dict[str, str]
    content_type: str
    priority: int
    expires_at: int
    topic: str
    history: list[dict[str, Any]]
    source: dict[str, Any]
    mqtt: dict[str, Any]


_pack = msgpack.Packer(autoreset=True).pack
_NAMED_ONLY = bytes((NAMED,))


def pack_id(id_: object) -> bytes:
    """`pack_meta` of a message that has an id and nothing else, the commonest case, checked. Raises BAD_OPTION."""
    if type(id_) is not str or not id_ or len(id_) > MAX_ID_BYTES or utf8_size(id_) > MAX_ID_BYTES:
        raise BrokerError(Code.BAD_OPTION, f"id must be text of 1 to {MAX_ID_BYTES} bytes")
    packed: bytes = _pack({"id": id_})
    return _NAMED_ONLY + packed


@lru_cache(maxsize=256)
def pack_content_type(content_type: str) -> bytes:
    """The same for one that has a content type and nothing else; most publishers use one or two. Raises BAD_OPTION."""
    meta = check_meta({"content_type": content_type}, 0)
    return bytes((0,)) + _pack(meta)  # type: ignore[no-any-return]


def pack_meta(meta: Meta) -> bytes | None:
    """Pack a publisher's checked fields; None when there are none, so that a plain message costs nothing.

    Raises BrokerError(BAD_MESSAGE) when the packed form passes MAX_META_BYTES.
    """
    packed = packed_meta(meta)
    if packed is not None and len(packed) > MAX_META_BYTES + 1:
        size = len(packed) - 1
        raise BrokerError(Code.BAD_MESSAGE, f"headers and key take {size} bytes, the limit is {MAX_META_BYTES}")
    return packed


def packed_meta(meta: Meta) -> bytes | None:
    """The same for fields of the broker's own, such as a history, which no publisher's limit may stop."""
    if not meta:
        return None
    flags = (
        (KEYED if "key" in meta else 0)
        | (PRIORITY if meta.get("priority") else 0)
        | (EXPIRES if "expires_at" in meta else 0)
        | (NAMED if "id" in meta else 0)
    )
    packed: bytes = _pack(meta)
    return bytes((flags,)) + packed


def unpack_meta(packed: bytes | None) -> Meta:
    """The inverse of `pack_meta`."""
    if packed is None:
        return {}
    meta: Meta = msgpack.unpackb(packed[1:])
    return meta


def check_meta(options: Mapping[str, Any], now_ms: int) -> Meta:
    """Turn a publisher's options (`id key headers content_type priority ttl`) into Meta.

    `ttl` is in milliseconds from `now_ms`. Raises BrokerError(BAD_OPTION) naming the option and what fits.
    `delay` and `due` are not looked at: they belong to the schedule.
    """
    meta: Meta = {}
    for name, value in options.items():
        if value is None or name in ("delay", "due"):
            continue
        if name in ("id", "key", "content_type"):
            if type(value) is not str or not value or utf8_size(value) > MAX_ID_BYTES:
                raise BrokerError(Code.BAD_OPTION, f"{name} must be text of 1 to {MAX_ID_BYTES} bytes")
            meta[name] = value  # type: ignore[literal-required]
        elif name == "headers":
            meta["headers"] = _check_headers(value)
        elif name == "priority":
            if type(value) is not int or not 0 <= value <= 9:
                raise BrokerError(Code.BAD_OPTION, "priority must be a whole number from 0 to 9 (9 goes first)")
            if value:
                meta["priority"] = value
        elif name == "ttl":
            if type(value) is not int or not 0 < value < MAX_DELAY:
                raise BrokerError(Code.BAD_OPTION, "ttl must be a positive number of milliseconds, below 10**15")
            meta["expires_at"] = now_ms + value
        else:
            raise BrokerError(
                Code.BAD_OPTION, f"no option {name!r}; there are id, key, headers, content_type, priority, ttl, delay"
            )
    if not meta.get("headers", True):
        del meta["headers"]
    return meta


def _check_headers(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > MAX_HEADERS:
        raise BrokerError(Code.BAD_OPTION, f"headers must be a map of at most {MAX_HEADERS} texts")
    for name, text in value.items():
        if type(name) is not str or type(text) is not str or not name or utf8_size(name + text) > MAX_META_BYTES:
            raise BrokerError(Code.BAD_OPTION, "header names and values must be text, valid UTF-8 and below 64 KiB")
    return dict(value)


def utf8_size(text: str) -> int:
    """Bytes on the wire; more than any limit for what has none: a lone surrogate, which JSON can spell."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return MAX_META_BYTES + 1


def made_id(epoch: str, offset: int, at: int) -> str:
    """The id of a message whose publisher gave none: a UUIDv7 (RFC 9562 §5.7) computed from its place in the log.

    48 bits of unix milliseconds, then 74 bits: 52 of the offset, 22 of the epoch's hash. Nothing is stored for it, and
    every door and client computes the same one.
    """
    salt = _salt(epoch)
    low74 = (offset & ((1 << 52) - 1)) << 22 | salt
    value = at << 80 | 7 << 76 | (low74 >> 62) << 64 | 2 << 62 | low74 & ((1 << 62) - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@lru_cache(maxsize=4)
def _salt(epoch: str) -> int:
    return int.from_bytes(blake2b(epoch.encode(), digest_size=3).digest(), "big") & 0x3FFFFF


@dataclass(frozen=True, slots=True)
class Message:
    """A message as people and slow doors see it. `attempt` counts from 1 and is set on queue deliveries only."""

    id: str
    offset: int
    position: str
    topic: str
    published_at: int
    body: bytes
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str | None = None
    priority: int = 0
    expires_at: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Any] | None = None

    @classmethod
    def of(cls, row: Row, epoch: str) -> "Message":
        """Look at a row. A redriven message shows the topic it was first published to."""
        offset, topic, at, packed, body = row
        meta = unpack_meta(packed)
        return cls(
            id=meta.get("id") or made_id(epoch, offset, at),
            offset=offset,
            position=f"{epoch}.{offset}",
            topic=meta.get("topic", topic),
            published_at=at,
            body=body,
            key=meta.get("key"),
            headers=meta.get("headers", {}),
            content_type=meta.get("content_type"),
            priority=meta.get("priority", 0),
            expires_at=meta.get("expires_at"),
            history=meta.get("history", []),
            source=meta.get("source"),
        )
