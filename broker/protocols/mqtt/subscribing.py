"""SUBSCRIBE and UNSUBSCRIBE (§3.8 to §3.11): each filter is authorized by itself and gets its own answer. Floor 4."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.topic import check_filter
from broker.engine.base import Unit
from broker.hub import Hub
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.fanout import written_ids
from broker.protocols.mqtt.codec.packets import Request, Suback, Subscribe, Unsuback, Unsubscribe
from broker.protocols.mqtt.codec.reasons import FROM_SERVER
from broker.protocols.mqtt.codec.topics import shared
from broker.protocols.mqtt.filters import Subscribed, Wanted
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.retained import Retained
from broker.protocols.mqtt.sender import Find
from broker.protocols.mqtt.session import Session
from broker.protocols.mqtt.sessions import Sessions
from broker.protocols.mqtt.state import PREFIX as STATE

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

IF_NEW, NEVER = 1, 2
"""Retain handling (§3.8.3.1); 0 is always."""


class Subscribing:
    """What one SUBSCRIBE or UNSUBSCRIBE does to a session."""

    def __init__(self, hub: Hub, options: MqttOptions, sessions: Sessions, retained: Sequence[Retained]) -> None:
        self._hub = hub
        self._options = options
        self._sessions = sessions
        self._retained = retained

    def is_quick(self, session: Session, packet: Subscribe | Unsubscribe) -> bool:
        """Is nothing to be committed for it?"""
        filters = packet.filters if isinstance(packet, Unsubscribe) else [entry.filter for entry in packet.requests]
        return not session.durable and not any(text.startswith("$share/") for text in filters)

    # SUBSCRIBE

    def subscribe_now(self, connection: "Connection", packet: Subscribe) -> None:
        """The quick way."""
        session = connection.session
        granted, reasons, fresh = self._grant(session, packet)
        for subscribed in granted:
            session.filters.put(subscribed)
        session.read(self._hub)
        self._answer(connection, packet, granted, reasons, fresh)

    async def subscribe(self, connection: "Connection", packet: Subscribe) -> None:
        """For a session that is kept, and for groups: on disk before it is answered. Whoever goes meanwhile, or
        comes in its place, has its turn afterwards. Raises what the engine does."""
        async with self._sessions.turn(connection.client):
            if not connection.closed:
                await self._subscribe(connection, packet)

    async def _subscribe(self, connection: "Connection", packet: Subscribe) -> None:
        session = connection.session
        granted, reasons, fresh = self._grant(session, packet)
        own = [subscribed for subscribed in granted if subscribed.share is None]
        for subscribed in own:
            session.filters.put(subscribed)
        for subscribed in granted:
            if subscribed.share is not None:
                await self._sessions.groups.join(session, subscribed)
        if session.durable and granted:
            await self._hub.committed(Unit(sets=[session.record()], sender=session))
            if own:
                await self._sessions.put_queue(session)
        session.read(self._hub)
        self._answer(connection, packet, granted, reasons, fresh)
        session.consume(self._hub)

    def _grant(self, session: Session, packet: Subscribe) -> tuple[list[Subscribed], list[Reason], set[str]]:
        """What is granted, an answer per filter, and which filters are new to the session."""
        ids = packet.properties.get("subscription_ids")
        identifier = ids[0] if ids else 0
        granted: list[Subscribed] = []
        reasons: list[Reason] = []
        fresh: set[str] = set()
        for request in packet.requests:
            there = session.filters.get(request.filter) is not None or request.filter in session.shares
            try:
                qos = self._check(session, request, len(fresh) if not there and request.filter not in fresh else None)
            except BrokerError as error:
                reasons.append(_reason(error))
                continue
            if not there:
                fresh.add(request.filter)
            granted.append(Subscribed.of(request, qos, identifier))
            reasons.append(Reason(qos))
        return granted, reasons, fresh

    def _check(self, session: Session, request: Request, more: int | None) -> int:
        """The QoS that is granted: of a group at most 1, because what one member does not answer goes to another; of
        the broker's state 0.
        `more`: so many new ones came before it in the packet, None: it is none. Raises BAD_FILTER, FORBIDDEN,
        RATE_LIMITED."""
        share = shared(request.filter)
        topics = check_filter(request.filter if share is None else share.filter)
        if share is not None:
            check_filter(share.group)  # for its size
        if topics in self._options.refused_filters:  # no right of anybody's is missing, so it is not 0x87
            raise MqttError(Reason.UNSPECIFIED_ERROR, f"nobody may subscribe to {topics}")
        if more is not None and len(session.filters) + len(session.shares) + more >= self._options.max_filters:
            raise BrokerError(Code.RATE_LIMITED, f"{self._options.max_filters} filters; raise mqtt.max_filters")
        if session.sender is not None and session.sender.asked_for >= self._options.max_filters:
            raise BrokerError(Code.RATE_LIMITED, "retained messages of earlier subscriptions were not taken yet")
        session.hold(self._hub, request.filter, topics)
        if topics.startswith(STATE):
            return 0
        return request.qos if share is None else min(request.qos, 1)

    def _answer(
        self,
        connection: "Connection",
        packet: Subscribe,
        granted: list[Subscribed],
        reasons: list[Reason],
        fresh: set[str],
    ) -> None:
        """SUBACK, then what is retained. [MQTT-3.8.4-1, 3.8.4-5, 3.8.4-6]"""
        connection.send(Suback(packet.packet_id, tuple(reasons)))
        handling = {request.filter: request.retain_handling for request in packet.requests}
        asked: list[tuple[Find, Wanted]] = []
        for subscribed in granted:
            how = handling[subscribed.filter]
            if subscribed.share is not None or how == NEVER or (how == IF_NEW and subscribed.filter not in fresh):
                continue
            own = written_ids((subscribed.identifier,)) if subscribed.identifier else b""
            wanted = Wanted(subscribed.qos, False, own)
            asked.append((partial(self._matching, subscribed.filter), wanted))
        if asked and connection.session.sender is not None:
            connection.session.sender.retained(asked)

    def _matching(self, text: str, now: int) -> list[Row]:
        return [row for retained in self._retained for row in retained.matching(text, now)]

    # UNSUBSCRIBE

    def unsubscribe_now(self, connection: "Connection", packet: Unsubscribe) -> None:
        """The quick way."""
        session = connection.session
        reasons = [self._remove(session, text) for text in packet.filters]
        session.read(self._hub)
        connection.send(Unsuback(packet.packet_id, tuple(reasons)))

    async def unsubscribe(self, connection: "Connection", packet: Unsubscribe) -> None:
        """The other way. [MQTT-3.10.4-1, 3.10.4-4, 3.10.4-5]"""
        async with self._sessions.turn(connection.client):
            if not connection.closed:
                await self._unsubscribe(connection, packet)

    async def _unsubscribe(self, connection: "Connection", packet: Unsubscribe) -> None:
        session = connection.session
        reasons: list[Reason] = []
        for text in packet.filters:
            if text in session.shares:
                session.release(text)
                await self._sessions.groups.leave(session, text)
                reasons.append(Reason.SUCCESS)
            else:
                reasons.append(self._remove(session, text))
        if session.durable:
            await self._hub.committed(Unit(sets=[session.record()], sender=session))
            await self._sessions.put_queue(session)
        session.read(self._hub)
        connection.send(Unsuback(packet.packet_id, tuple(reasons)))

    @staticmethod
    def _remove(session: Session, text: str) -> Reason:
        if not session.filters.remove(text):
            return Reason.NO_SUBSCRIPTION_EXISTED
        session.release(text)
        return Reason.SUCCESS


def _reason(error: BrokerError) -> Reason:
    reason = error.reason if isinstance(error, MqttError) else Reason(error.kind.mqtt)
    if reason in FROM_SERVER[Kind.SUBACK]:
        return reason
    return Reason.QUOTA_EXCEEDED if error.kind.http in (429, 503) else Reason.UNSPECIFIED_ERROR
