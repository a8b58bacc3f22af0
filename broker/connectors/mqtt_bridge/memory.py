"""What a bridge knows over restarts: who it is at the other side, and what may be subscribed there. Pure. Floor 4."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from broker.connectors.mqtt_bridge.options import BridgedTopics
from broker.engine.base import Set


@dataclass(frozen=True, slots=True)
class Memory:
    """`filters` may be subscribed there. Of these `settled` surely are at `address`, with this QoS, and have brought
    what was retained; the rest is subscribed anew with each connection, so that what an outage cut off comes again."""

    client_id: str
    filters: tuple[str, ...] = ()
    settled: tuple[tuple[str, int], ...] = ()
    address: str = ""

    def kept(self, name: str) -> Set:
        """To be committed."""
        return Set(key_of(name), json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, value: bytes) -> "Memory":
        """The inverse."""
        known = json.loads(value)
        settled = tuple((text, qos) for text, qos in known["settled"])
        return cls(known["client_id"], tuple(known["filters"]), settled, known["address"])

    def subscribing(self, entries: Sequence[BridgedTopics], address: str, *, present: bool) -> "Memory":
        """Before they are subscribed at this address. `present`: it knows us."""
        wanted = tuple(entry.remote for entry in entries)
        stale = [text for text in self.filters if text not in wanted] if present else []
        there = present and address == self.address
        settled = [(entry.remote, entry.qos) for entry in entries if there and self.settles(entry)]
        return Memory(self.client_id, (*wanted, *stale), tuple(settled), address)

    def settles(self, entry: BridgedTopics) -> bool:
        """Is it one that surely is subscribed?"""
        return (entry.remote, entry.qos) in self.settled


def key_of(name: str) -> str:
    """Where it is kept."""
    return f"mqtt_bridge/{name}"
