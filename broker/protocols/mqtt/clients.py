"""Clients as operators see them: each session, connected or away, with what waits for it and what went wrong. Floor 4.

Shown as plain values, so that whoever shows them need not know this door; times are unix milliseconds.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.protocols.mqtt.codec.packets import V5, V31, V311
from broker.protocols.mqtt.connection import Connection
from broker.protocols.mqtt.session import Session
from broker.protocols.mqtt.sessions import Sessions
from broker.protocols.mqtt.tie import Tie

VERSIONS = {V31: "3.1", V311: "3.1.1", V5: "5.0"}


class Clients:
    """See the module."""

    def __init__(self, hub: Hub, sessions: Sessions) -> None:
        self._hub = hub
        self._sessions = sessions

    def names(self, prefix: str, principal: str | None, connected: bool | None, slow: bool | None) -> Iterator[str]:
        """Of those that begin so and are so (None: either way), in no order; of those that were there at first."""
        for name, session in list(self._sessions.items()):
            if not name.startswith(prefix) or (principal is not None and session.principal.name != principal):
                continue
            connection = session.connection
            if connected is not None and connected is (connection is None):
                continue
            if slow is None or slow is (connection is not None and connection.slow):
                yield name

    def show(self, name: str, most: int | None) -> dict[str, Any]:
        """One of them; of its subscriptions at most so many, None: all. Raises NOT_FOUND."""
        session = self._found(name)
        away, trouble = session.away, session.trouble
        messages, size, dropped = self._waiting(session)
        return {
            "client": name,
            "principal": session.principal.name,
            "state": "away" if session.connection is None else "connected",
            **_wire(session.connection),
            "kept": session.durable,
            "expiry_seconds": session.expiry,
            "away_since": None if away is None else int(away * 1000),
            "expires_at": None if away is None else int((away + session.expiry) * 1000),
            "subscriptions": [{"filter": entry.filter, "qos": entry.qos} for entry in session.entries()[:most]],
            "groups": [self._group(text, tie) for text, tie in islice(session.shares.items(), most)],
            "filters": session.count,
            "queued": messages,
            "queued_bytes": size,
            "in_flight_out": len(session.outbound.unanswered()),
            "in_flight_in": len(session.inbound.used),
            "dropped": dropped,
            "last_error": None if trouble is None else trouble._asdict(),
        }

    def _found(self, name: str) -> Session:
        session = self._sessions.find(name)
        if session is None:
            raise _unknown(name)
        return session

    def _waiting(self, session: Session) -> tuple[int, int, int]:
        """(messages that it has not answered, bytes of those that are kept, messages that it will never get)."""
        skipped = sum(tie.skipped for tie in session.ties())
        if session.own is not None:
            try:
                dropped = self._hub.engine.subscription(session.queue).dropped
                return *self._hub.engine.weight(session.queue), dropped + skipped
            except BrokerError:  # it has no queue
                pass
        return 0 if session.sender is None else session.sender.waiting, 0, skipped

    def _group(self, text: str, tie: Tie) -> dict[str, Any]:
        """What waits for all its members."""
        try:
            messages, size = self._hub.engine.weight(tie.queue or "")
        except BrokerError:  # it is just going
            messages = size = 0
        return {"filter": text, "queued": messages, "queued_bytes": size}

    async def kick(self, name: str) -> None:
        """Close its connection; it is told why. Raises NOT_FOUND, also for one that is away."""
        session = self._found(name)
        if session.connection is None:
            raise BrokerError(
                Code.NOT_FOUND, f"the client {name[:100]!r} is away; its session ends by --forget (?forget=true)"
            )
        session.connection.fail(BrokerError(Code.DISMISSED))

    async def forget(self, name: str) -> None:
        """The same, and end its session, with all that waits for it. Raises NOT_FOUND."""
        if not await self._sessions.forget(name, BrokerError(Code.DISMISSED, "and ended your session")):
            raise _unknown(name)


def _wire(connection: Connection | None) -> dict[str, Any]:
    """What only somebody who is connected has."""
    if connection is None:
        names = ("connection", "address", "port", "version", "keep_alive_seconds", "connected_since")
        return dict.fromkeys(names) | {"slow": False}
    return {
        "connection": connection.id,
        "address": connection.address,
        "port": connection.port,
        "version": VERSIONS[connection.version],
        "keep_alive_seconds": connection.keep_alive,
        "connected_since": int(connection.since * 1000),
        "slow": connection.slow,
    }


def _unknown(name: str) -> BrokerError:
    return BrokerError(Code.NOT_FOUND, f"no client {name[:100]!r} has a session")
