"""What is put on a broker, and what came of it: the same for the daemon, the prototype and the peers."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TIME_LIMIT = 240.0
"""Seconds after which a load that is not done has failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """`count` messages of `size` bytes, at most `window` of them unconfirmed; on one topic and without ids unless said
    otherwise. One publisher, one queue, one consumer."""

    count: int
    window: int
    size: int = 256
    topics: int = 1
    ids: str = ""

    def body(self) -> bytes:
        """Random bytes, without the line ends that drivers of text protocols look for."""
        return os.urandom(self.size).replace(b"\r", b"x").replace(b"\n", b"y")


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages per second from the first publish to the last confirm, and to the last ack sent."""

    confirmed: float
    acked: float

    def values(self) -> dict[str, float]:
        """With `rate`, the lower of both: every message confirmed, delivered and acked."""
        return {"confirmed": self.confirmed, "acked": self.acked, "rate": min(self.confirmed, self.acked)}


class Target(Protocol):
    """Something that a load can be put on. `durability`: what a confirm of it says, in words. `share`: which part of a
    load's count it gets, so that a slow one does not take minutes."""

    name: str
    durability: str
    share: float

    def missing(self) -> str:
        """What to install; empty when it can run."""

    def version(self) -> str:
        """Of the server."""

    async def measure(self, load: Load, folder: Path) -> Rates:
        """Start it anew with its data in the folder, put the load on it, end it."""
