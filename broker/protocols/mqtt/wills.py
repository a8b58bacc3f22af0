"""Wills (§3.1.2.5): what is published for a client that is lost, at once or after its delay.

They are kept on disk, so that a crash of the broker loses none: who was connected then is taken for lost at the next
start, and has a moment to come back. Floor 4.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

import msgpack

from broker.auth.principal import Principal
from broker.core.errors import BrokerError
from broker.core.mqtt import packed
from broker.engine.base import Receipt, Set, Unit
from broker.hub import Hub
from broker.protocols.mqtt.codec.packets import Will
from broker.protocols.mqtt.kept import WILLS, escaped

logger = logging.getLogger(__name__)
RETURN_SECONDS = 5.0
"""After a start, so long at least before somebody's will is published who was connected when the broker stopped; and
until one that could not be stored is tried again."""


class Wills:
    """See the module."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._wills: dict[str, tuple[Principal, Will]] = {}
        self._due: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._wills)

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._wills

    def check(self, principal: Principal, will: Will) -> None:
        """May this be published? Raises what publishing it would."""
        self._hub.check_publish(principal, will.topic)
        meta = packed(will.qos, will.retain, will.properties, 0)
        if will.retain:
            self._hub.retained.check((will.topic, meta, will.payload), principal.name)

    def put(self, client_id: str, principal: Principal, will: Will | None) -> tuple[list[Set], Callable[[], None]]:
        """The will of a client that connects; one that was due is not published any more, unless it is another
        principal's who had this identifier before. Returns what is to be committed for it, and what makes all as it was
        if that fails. [MQTT-3.1.3-9]"""
        if client_id in self._due and self._wills[client_id][0].name != principal.name:
            self._publish(client_id)
        due = self._due.pop(client_id, None)
        before = self._wills.pop(client_id, None)

        def take_back() -> None:
            self._wills.pop(client_id, None)
            if before is not None:
                self._wills[client_id] = before
            if due is not None:
                self._due[client_id] = due

        if will is None:
            return ([] if before is None else [_gone(client_id)]), take_back
        self._wills[client_id] = (principal, will)
        value = (client_id, principal.name, will.topic, will.payload, will.qos, will.retain, dict(will.properties))
        return [Set(WILLS + escaped(client_id), msgpack.packb(value))], take_back

    def restore(self, value: bytes, principal_of: Callable[[str], Principal], expiry_of: Callable[[str], int]) -> None:
        """At start. `expiry_of` a client: how many seconds its session lasts."""
        client_id, name, topic, payload, qos, retain, properties = msgpack.unpackb(value)
        will = Will(topic, payload, qos, retain, properties)
        self._wills[client_id] = (principal_of(name).as_client(client_id), will)
        self._due[client_id] = self._hub.wall() + max(
            RETURN_SECONDS, min(expiry_of(client_id), will.properties.get("will_delay", 0))
        )

    def lost(self, client_id: str, expiry: int) -> None:
        """The connection was lost; the session lasts so many seconds. [MQTT-3.1.2-8]"""
        if client_id in self._wills:
            delay = min(expiry, self._wills[client_id][1].properties.get("will_delay", 0))
            if delay:
                self._due[client_id] = self._hub.wall() + delay
            else:
                self._publish(client_id)

    def ended(self, client_id: str) -> None:
        """The session has ended: a will that was due later is published now."""
        if client_id in self._due:
            self._publish(client_id)

    def drop(self, client_id: str) -> None:
        """The client took its leave. [MQTT-3.1.2-10]"""
        self._due.pop(client_id, None)
        if self._wills.pop(client_id, None) is not None:
            self._forget(client_id)

    def tick(self) -> None:
        """Publish those whose time has come."""
        now = self._hub.wall()
        for client_id in [client_id for client_id, due in self._due.items() if due <= now]:
            self._publish(client_id)

    def _publish(self, client_id: str) -> None:
        self._due.pop(client_id, None)
        principal, will = self._wills.pop(client_id)
        unit = Unit(sender=self, sets=[_gone(client_id)])
        now = int(self._hub.wall() * 1000)
        meta = packed(will.qos, will.retain, will.properties, now)
        draft = (will.topic, meta, will.payload)
        unit.publishes.append(draft)
        unit.size = len(will.payload) + len(meta or b"")
        unit.principal = principal.name
        kept = [self._hub.retained.keep(unit.sets, draft, 0, principal.name)] if will.retain else []

        def done(receipt: Receipt) -> None:
            if receipt.error is not None:
                self._failed(client_id, principal, will, receipt.error)
            else:
                self._hub.retained.committed(receipt, kept)

        unit.done = done
        try:
            self._hub.check_publish(principal, will.topic)
            self._hub.commit(unit)
        except BrokerError as error:
            self._failed(client_id, principal, will, error)

    def _failed(self, client_id: str, principal: Principal, will: Will, error: BrokerError) -> None:
        """What cannot be stored now is tried again in a while, unless the client is back; what never can is
        forgotten."""
        logger.warning("a will is not published", extra={"client": client_id, "error": error.text})
        if not error.passing:
            self._forget(client_id)
        elif client_id not in self._wills:
            self._wills[client_id] = (principal, will)
            self._due[client_id] = self._hub.wall() + RETURN_SECONDS

    def _forget(self, client_id: str) -> None:
        with suppress(BrokerError):
            self._hub.commit(Unit(sets=[_gone(client_id)], sender=self))


def _gone(client_id: str) -> Set:
    return Set(WILLS + escaped(client_id), None)
