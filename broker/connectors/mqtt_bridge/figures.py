"""Bridges in numbers, for metrics. Floor 4."""

from collections.abc import Sequence

from broker.connectors.mqtt_bridge.bridge import BridgeStatus
from broker.observe.metrics import Figures, counter, gauge

_RESULTS = ("sent", "rejected", "dropped", "received", "duplicates", "returned", "refused")


def figures(bridges: Sequence[BridgeStatus]) -> list[Figures]:
    """Messages by what became of them, what waits, for how long, and which bridges have a trouble."""
    one = ("bridge",)
    results = {(bridge.name, result): getattr(bridge, result) for bridge in bridges for result in _RESULTS}
    failing = {(bridge.name,): float(bridge.state != "ok") for bridge in bridges}
    return [
        counter("bridge_messages", "Messages of bridges, by result", ("bridge", "result"), results),
        counter("bridge_connections", "Connections made", one, {(b.name,): b.connections for b in bridges}),
        gauge("bridge_backlog", "Messages that wait to be sent", one, {(b.name,): b.backlog for b in bridges}),
        gauge("bridge_oldest_seconds", "Age of the oldest", one, {(b.name,): b.oldest_seconds for b in bridges}),
        gauge("bridge_in_flight", "Messages without an answer", one, {(b.name,): b.in_flight for b in bridges}),
        gauge("bridge_failing", "1 while a bridge has a trouble", one, failing),
    ]
