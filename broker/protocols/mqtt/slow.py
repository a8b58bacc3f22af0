"""Clients that do not read: their sockets stay full. Floor 4.

None of them holds up others or costs more than its part of memory: what is in the log waits there for it, up to the
caps of its queue, and what is in none passes it by, counted. So by default they are `parked`, that is left alone; where
they are to be let go instead, the options say so. Either way it is told: in `$SYS/broker/clients/slow`, in metrics, and
to operators.
"""

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from broker.core.duration import format_duration
from broker.core.errors import BrokerError, Code
from broker.net.deadline import Deadlines
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.state import State

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

logger = logging.getLogger(__name__)


class SlowClients:
    """Those whose socket has been full for longer than `slow_after`."""

    def __init__(self, options: MqttOptions, state: State) -> None:
        self._options = options
        self._state = state
        self._slow: set[Connection] = set()
        self._full: Deadlines[Connection]
        self.times = 0
        """How often somebody was, since the start."""

    def __len__(self) -> int:
        return len(self._slow)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Before the first connection."""
        self._full = Deadlines(loop, self._options.slow_after / 1000, self.tell)

    def full(self, connection: "Connection") -> None:
        """Its socket takes no more."""
        self._full.begin(connection)

    def drained(self, connection: "Connection") -> None:
        """It takes something again, or is gone."""
        self._full.end(connection)
        self._slow.discard(connection)
        connection.slow = False

    def tell(self, connection: "Connection") -> None:
        """It is slow."""
        connection.slow = True
        self._slow.add(connection)
        self.times += 1
        span = format_duration(self._options.slow_after)
        leaves = self._options.slow_clients == "disconnect"
        detail = f"your socket was full for {span}: read faster, or raise mqtt.slow_after"
        client, principal = connection.client, connection.identified.name
        why = {"client": client, "principal": principal, "unsent": connection.unsent, "seconds": span, "let_go": leaves}
        self._state.note("clients/slow", json.dumps(why))
        logger.warning("a client does not read", extra=why)
        if leaves:
            connection.fail(BrokerError(Code.SLOW_READER, detail))

    def close(self) -> None:
        """No more."""
        self._full.close()
