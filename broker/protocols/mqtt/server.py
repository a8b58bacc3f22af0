"""The asyncio shell of MQTT: listeners, deadlines, and what time brings. Floor 4."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence

from broker.auth.doorkeeper import Doorkeeper
from broker.auth.principal import LOCAL, Principal
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.net.admission import Admission
from broker.net.deadline import Deadlines
from broker.net.door import Door
from broker.net.tls import Tls
from broker.observe.metrics import Figures, counter, gauge
from broker.protocols.mqtt.backlogs import Backlogs
from broker.protocols.mqtt.clients import Clients
from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.dialect import Limits
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.connection import Connection
from broker.protocols.mqtt.encoded import Encoded
from broker.protocols.mqtt.groups import Groups
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.sessions import Sessions
from broker.protocols.mqtt.slow import SlowClients
from broker.protocols.mqtt.state import State
from broker.protocols.mqtt.subscribing import Subscribing
from broker.protocols.mqtt.wills import Wills

logger = logging.getLogger(__name__)
TICK = 1.0
TELL, KEEP, PROLONG = 10, 60, 3_600
"""Ticks between two tellings of the broker's state, two writes of where streams are, two prolongations of leases."""
HEAD = 128 << 10
"""What a packet may have beside its payload: topic and properties."""


class MqttServer(Door[Connection]):
    """All connections of MQTT on the sockets it is given. `principal_of` finds who has a name."""

    name = "mqtt"

    def __init__(
        self,
        hub: Hub,
        options: MqttOptions,
        admission: Admission | None = None,
        tls: Tls | None = None,
        doorkeeper: Doorkeeper | None = None,
        principal_of: Callable[[str], Principal] = lambda _: LOCAL,
    ) -> None:
        super().__init__(hub, admission, tls, doorkeeper)
        self.options = options
        self.packet_limits = Limits(max_packet=hub.limits.max_body + HEAD, max_connect=hub.limits.max_hello_frame)
        self.sessions = Sessions(hub, options, Groups(hub, options), Wills(hub), principal_of)
        self.clients = Clients(hub, self.sessions)
        self.backlogs = Backlogs(hub, options, self.sessions)
        self.state = State(hub)
        self.slow = SlowClients(options, self.state)
        self.subscribing = Subscribing(hub, options, self.sessions, self.state.current)
        self.encoded = Encoded()
        self.counts: Counter[str] = Counter()
        self.connecting: Deadlines[Connection]
        self._silences: dict[float, Deadlines[Connection]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Take up what was kept, and accept on these listening sockets."""
        self.loop = asyncio.get_running_loop()
        self.connecting = Deadlines(self.loop, self.options.connect_timeout / 1000, self._too_late)
        self.slow.start(self.loop)
        await self.sessions.load()
        self.state.tell(self.status())
        await self.listen(sockets, self.connection)
        self._timer = self.loop.call_later(TICK, self._on_timer)

    def connection(self) -> Connection:
        """One that is to come, on whatever carries its bytes. Raises SHUTTING_DOWN."""
        if self.sessions.stopping:
            raise BrokerError(Code.SHUTTING_DOWN)
        return Connection(self)

    def _too_late(self, connection: Connection) -> None:
        connection.fail(MqttError(Reason.PROTOCOL_ERROR, "no CONNECT in time"))

    def silence(self, seconds: float) -> Deadlines[Connection]:
        """The deadlines of all connections that may be silent for so long."""
        found = self._silences.get(seconds)
        if found is None:
            found = self._silences[seconds] = Deadlines(self.loop, seconds, Connection.silent)
        return found

    def _on_timer(self) -> None:
        self.tick()
        self._timer = self.loop.call_later(TICK, self._on_timer)

    def tick(self) -> None:
        """What time brings: sessions end, wills are published, leases go on."""
        self._ticks += 1
        self.encoded.forget()
        self.sessions.tick()
        self.backlogs.look()
        if self._ticks % TELL == 0:
            self.state.tell(self.status())
        if self._ticks % KEEP == 0:
            self.sessions.keep_places()
        if self._ticks % PROLONG == 0:
            self.sessions.prolong()

    def status(self) -> dict[str, int]:
        """What `/v1/status` says of this door."""
        return {
            "connections": len(self.connections),
            "sessions": len(self.sessions),
            "away": self.sessions.away,
            "slow": len(self.slow),
            "queued_bytes": self.backlogs.size,
            "shared_subscriptions": len(self.sessions.groups),
            "retained": len(self.hub.retained),
            "retained_bytes": self.hub.retained.size,
            "wills": len(self.sessions.wills),
        }

    def figures(self) -> list[Figures]:
        """The same for `/metrics`, with what was refused and passed over since the start."""
        status = self.status()
        texts = {
            "sessions": "MQTT sessions, connected or kept",
            "away": "MQTT sessions that are kept while nobody is connected",
            "slow": "MQTT clients that do not read",
            "queued_bytes": "Bytes that wait in the queues of MQTT sessions and groups, as they were looked at last",
            "shared_subscriptions": "Groups of shared subscriptions",
            "retained": "Retained messages",
            "retained_bytes": "Bytes that retained messages take",
            "wills": "Wills of connected clients, and those that are due",
        }
        gauges = [gauge(f"mqtt_{name}", text, (), {(): status[name]}) for name, text in texts.items()]
        counts = {
            "refused": ("Messages of MQTT clients that were not taken", self.counts["refused"]),
            "oversized": ("Messages that were too large for a client", self.encoded.oversized),
            "cut": ("Messages that were dropped to keep backlogs within bounds", self.backlogs.dropped),
            "became_slow": ("How often an MQTT client did not read", self.slow.times),
        }
        return gauges + [counter(f"mqtt_{name}", text, (), {(): count}) for name, (text, count) in counts.items()]

    def drain(self) -> None:
        """Accept no one, and send everybody away: sessions and wills are kept for the next start."""
        self.sessions.stopping = True
        self.shut()
        for connection in list(self.connections):
            connection.fail(BrokerError(Code.SHUTTING_DOWN, "the daemon is stopping"))

    async def stop(self) -> None:
        """Close everything."""
        self.drain()
        if self._timer is not None:
            self._timer.cancel()
        await self.sessions.stop()
        await self.backlogs.stop()
        self.connecting.close()
        self.slow.close()
        for deadlines in self._silences.values():
            deadlines.close()
        await self.abort()
