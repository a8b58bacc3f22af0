"""What the door keeps in the key/value store, where no client reads it: sessions, packet identifiers and wills. A pure
floor.

| key | value |
|---|---|
| `mqtt/session/CLIENT` | whose session it is, its filters with their options, its expiry, and since when it is away |
| `mqtt/in/CLIENT/ID` | an inbound QoS 2 identifier whose message is stored, until PUBREL |
| `mqtt/out/CLIENT/ID` | an outbound one, until PUBCOMP: its message's offset, nothing when only PUBREL is sent again |
| `mqtt/will/CLIENT` | what to publish when the client is lost, by whose right |

CLIENT is percent-encoded, so that no identifier reaches into another's keys.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgpack

from broker.engine.base import Set
from broker.protocols.mqtt.filters import Subscribed

SESSIONS, INBOUND, OUTBOUND, WILLS = (f"mqtt/{kind}/" for kind in ("session", "in", "out", "will"))


def escaped(client_id: str) -> str:
    """A client's identifier within keys and names of subscriptions."""
    return quote(client_id, safe="")


@dataclass(slots=True)
class SessionRecord:
    """A session as it is kept. `expiry` in seconds; `away`: since when nobody is connected, unix seconds, None while
    somebody is (after a crash that means: until now)."""

    client_id: str
    principal: str
    expiry: int
    away: float | None = None
    filters: list[Subscribed] = field(default_factory=list)

    def kept(self) -> Set:
        """To be committed."""
        value = (self.client_id, self.principal, self.expiry, self.away, [tuple(entry) for entry in self.filters])
        return Set(SESSIONS + escaped(self.client_id), msgpack.packb(value))

    @classmethod
    def read(cls, value: bytes) -> "SessionRecord":
        """The inverse."""
        client_id, principal, expiry, away, filters = msgpack.unpackb(value)
        return cls(client_id, principal, expiry, away, [Subscribed(*entry) for entry in filters])


def forgotten_session(client_id: str) -> Set:
    """Its record goes."""
    return Set(SESSIONS + escaped(client_id), None)


def inbound_key(client_id: str, packet_id: int) -> str:
    """See the module."""
    return f"{INBOUND}{escaped(client_id)}/{packet_id}"


def outbound(client_id: str, packet_id: int, offset: int | None) -> Set:
    """An outbound identifier, with the place from which its message can be sent again, if there is one."""
    value = b"" if offset is None else str(offset).encode()
    return Set(_outbound_key(client_id, packet_id), value, delivers=True)


def forgotten_outbound(client_id: str, packet_id: int) -> Set:
    """It is free again."""
    return Set(_outbound_key(client_id, packet_id), None)


def _outbound_key(client_id: str, packet_id: int) -> str:
    return f"{OUTBOUND}{escaped(client_id)}/{packet_id}"


def packed(value: Any) -> bytes:
    """Plain values in bytes."""
    found: bytes = msgpack.packb(value)
    return found
