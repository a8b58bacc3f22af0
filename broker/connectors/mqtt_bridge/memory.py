"""What a bridge knows over restarts: who it is at the other side, and what may be subscribed there. Pure. Floor 4."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from broker.connectors.mqtt_bridge.options import BridgedTopics
from broker.engine.base import Set


@dataclass(frozen=True, slots=True)
class Memory:
    """`filters` may be subscribed there. Of these `settled` surely are, with this QoS, and have brought what was
    retained; the rest is subscribed anew with each connection, so that what an outage cut off comes again."""

    client_id: str
    filters: tuple[str, ...] = ()
    settled: tuple[tuple[str, int], ...] = ()

    def kept(self, name: str) -> Set:
        """To be committed."""
        value = {"client_id": self.client_id, "filters": self.filters, "settled": self.settled}
        return Set(key_of(name), json.dumps(value).encode())

    @classmethod
    def read(cls, value: bytes) -> "Memory":
        """The inverse."""
        known = json.loads(value)
        settled = tuple((text, qos) for text, qos in known["settled"])
        return cls(known["client_id"], tuple(known["filters"]), settled)

    def subscribing(self, entries: Iterable[BridgedTopics], *, present: bool) -> "Memory":
        """Before they are subscribed there. `present`: the other side knows us."""
        wanted = tuple(entry.remote for entry in entries)
        if not present:
            return Memory(self.client_id, wanted)
        asked = [(entry.remote, entry.qos) for entry in entries]
        stale = [text for text in self.filters if text not in wanted]
        return Memory(self.client_id, (*wanted, *stale), tuple(pair for pair in asked if pair in self.settled))

    def settles(self, entry: BridgedTopics) -> bool:
        """Is it one that surely is subscribed?"""
        return (entry.remote, entry.qos) in self.settled


def key_of(name: str) -> str:
    """Where it is kept."""
    return f"mqtt_bridge/{name}"
