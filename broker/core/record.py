"""What a queue remembers of its messages beyond their offset, and hands to the next commit. Floor 0."""

from dataclasses import dataclass, field
from typing import Any

from pyroaring import BitMap64


@dataclass(slots=True)
class Record:
    """What is known of a message that was delivered before. `due`: unix ms, 0 when not delayed."""

    attempts: int = 0
    deliveries: int = 0
    due: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Dead:
    """A message on its way to dead letters."""

    offset: int
    reason: str
    history: list[dict[str, Any]]


@dataclass(slots=True)
class Changes:
    """What the next commit must persist: the pages whose settled offsets changed, records changed (None: gone), and
    messages to move to dead letters."""

    pages: dict[int, BitMap64] = field(default_factory=dict)
    records: dict[int, Record | None] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    floor: int = 0


@dataclass(slots=True)
class Counters:
    """Since start."""

    acked: int = 0
    retried: int = 0
    dead: int = 0
    expired: int = 0
    dropped: int = 0
    leases_expired: int = 0
