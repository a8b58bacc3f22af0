"""`$SYS/broker/…`: how the broker is doing, for MQTT clients, under the names that Mosquitto made usual.

Told every ten seconds to who listens, and at once to who subscribes; in no log, so that such filters are granted QoS 0.
Floor 4.
"""

from collections.abc import Mapping

from broker import __version__
from broker.core.mqtt import QOS_0
from broker.core.retained import Retained
from broker.hub import Hub

PREFIX = "$SYS/"
ROOT = f"{PREFIX}broker/"
MAX_STATES = 100


class State:
    """See the module. `began`: when the broker started, unix seconds."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._began = hub.wall()
        self.current = Retained(MAX_STATES, 1 << 20)

    def note(self, name: str, text: str) -> None:
        """Something has just happened: told to who listens now."""
        self._hub.engine.pass_by([(ROOT + name, QOS_0, text.encode())])

    def tell(self, status: Mapping[str, int]) -> None:
        """What is so now, from the door's status and the engine's."""
        stats, now = self._hub.engine.stats(), self._hub.wall()
        values = {
            "version": f"postroom {__version__}",
            "uptime": f"{int(now - self._began)} seconds",
            "clients/connected": status["connections"],
            "clients/disconnected": status["away"],
            "clients/total": status["sessions"],
            "retained messages/count": status["retained"],
            "shared subscriptions/count": status["shared_subscriptions"],
            "subscriptions/count": stats.subscriptions,
            "messages/stored": stats.committed_messages,
            "publishers/blocked": self._hub.flow.blocked,
            "state": stats.state,
        }
        drafts = [(ROOT + name, QOS_0, str(value).encode()) for name, value in values.items()]
        for topic, meta, body in drafts:
            self.current.put((0, topic, int(now * 1000), meta, body))
        self._hub.engine.pass_by(drafts)
