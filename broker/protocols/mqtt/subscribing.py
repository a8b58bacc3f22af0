"""SUBSCRIBE and UNSUBSCRIBE (§3.8 to §3.11): each filter is authorized by itself and gets its own answer. Floor 4."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.auth.grant import on_topic
from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.retained import Retained
from broker.core.topic import check_filter
from broker.engine.base import Unit
from broker.hub import Hub
from broker.protocols.mqtt import queues
from broker.protocols.mqtt.codec.codes import Kind, Reason
from broker.protocols.mqtt.codec.error import MqttError
from broker.protocols.mqtt.codec.fanout import written_ids
from broker.protocols.mqtt.codec.packets import NONE, Properties, Request, Suback, Subscribe, Unsuback, Unsubscribe
from broker.protocols.mqtt.codec.reasons import FROM_SERVER
from broker.protocols.mqtt.codec.topics import shared
from broker.protocols.mqtt.farewell import MAX_REASON
from broker.protocols.mqtt.filters import Subscribed, Wanted, check_logged
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.parcel import Asked
from broker.protocols.mqtt.session import Session, named_tie
from broker.protocols.mqtt.sessions import Sessions
from broker.protocols.mqtt.state import PREFIX as STATE
from broker.protocols.mqtt.streams import StreamTie
from broker.protocols.mqtt.tie import NamedTie

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

IF_NEW, NEVER = 1, 2
"""Retain handling (§3.8.3.1); 0 is always."""
COMMITTED = ("$share/", queues.PREFIX)
"""Beginnings of filters that make a queue."""


@dataclass(slots=True)
class Granted:
    """What is said of one filter. Without `subscribed` it is refused, for this reason and by this error. `fresh`: it
    is new to the session. `reader` brings its messages where it is no filter of topics."""

    request: Request
    reason: Reason
    subscribed: Subscribed | None = None
    fresh: bool = False
    reader: NamedTie | None = None
    error: BrokerError | None = None

    def refuse(self, error: BrokerError) -> None:
        """It cannot be granted after all."""
        self.reason, self.error, self.subscribed, self.reader = _reason(error), error, None, None


class Subscribing:
    """What one SUBSCRIBE or UNSUBSCRIBE does to a session. `current` is told like what is retained."""

    def __init__(self, hub: Hub, options: MqttOptions, sessions: Sessions, current: Retained) -> None:
        self._hub = hub
        self._options = options
        self._sessions = sessions
        self._retained = (hub.retained, current)
        self._refused = set(map(on_topic, options.refused_filters))

    def is_quick(self, session: Session, packet: Subscribe | Unsubscribe) -> bool:
        """Is nothing to be committed for it?"""
        filters = packet.filters if isinstance(packet, Unsubscribe) else [entry.filter for entry in packet.requests]
        return not session.durable and not any(text.startswith(COMMITTED) for text in filters)

    # SUBSCRIBE

    def subscribe_now(self, connection: "Connection", packet: Subscribe) -> None:
        """The quick way."""
        session = connection.session
        granted = self._grant(session, packet)
        self._join(session, granted)
        session.read(self._hub)
        self._answer(connection, packet, granted)
        session.consume(self._hub)

    async def subscribe(self, connection: "Connection", packet: Subscribe) -> None:
        """For a session that is kept, and for queues: on disk before it is answered. Whoever goes meanwhile, or
        comes in its place, has its turn afterwards. Raises what the engine does."""
        async with self._sessions.turn(connection.client):
            if not connection.closed:
                await self._subscribe(connection, packet)

    async def _subscribe(self, connection: "Connection", packet: Subscribe) -> None:
        session = connection.session
        before = {entry.filter: entry for entry in session.entries()}
        granted = self._grant(session, packet)
        for one in granted:
            await self._make(session, one)
        kept = session.durable and any(one.subscribed for one in granted)
        try:
            if kept:
                await self._widen(session, granted, before)
            self._join(session, granted)
            session.read(self._hub)
            if kept:
                await self._keep(session, granted)
        except BrokerError as error:
            await self._take_back(session, granted, before, error)
            session.read(self._hub)
        self._answer(connection, packet, granted)
        session.consume(self._hub)

    async def _make(self, session: Session, granted: Granted) -> None:
        """The queue that it needs, if there is none."""
        try:
            if granted.reader is not None:
                await granted.reader.make(self._hub, session.principal)
            elif granted.subscribed is not None and granted.subscribed.share is not None:
                await self._sessions.groups.join(session, granted.subscribed)
        except BrokerError as error:
            granted.refuse(error)
            if granted.fresh:
                session.release(granted.request.filter)

    async def _widen(self, session: Session, granted: list[Granted], before: Mapping[str, Subscribed]) -> None:
        """What comes live so far and shall be kept from now on is kept before it stops to come live; the other way
        round it comes live before it is kept no more. So nothing is lost in between. [MQTT-3.8.4-4]"""
        wanted = {one.request.filter: one.subscribed for one in granted if one.subscribed and not one.reader}
        more = [text for text, entry in wanted.items() if entry.qos and text in before and not before[text].qos]
        if more:
            await self._sessions.put_queue(session, more)

    async def _keep(self, session: Session, granted: list[Granted]) -> None:
        """Its queue, then its record: what a crash in between leaves of the queue, the next start takes away."""
        if any(one.subscribed and not (one.reader or one.subscribed.share) for one in granted):
            await self._sessions.put_queue(session, finish=True)
        await self._hub.committed(Unit(sets=[session.record()], sender=session))

    async def _take_back(
        self, session: Session, granted: list[Granted], before: Mapping[str, Subscribed], error: BrokerError
    ) -> None:
        """It could not be kept, so none of it holds: the session is as it was, and the client is told."""
        for one in granted:
            if one.subscribed is None:
                continue
            was = before.get(one.request.filter)
            if was is None:
                await self._drop(session, one.request.filter)
            elif (reader := named_tie(was, self._hub, self._options)) is not None:
                session.join(reader)
            elif was.share is not None:
                self._sessions.groups.remember(session, was)
            else:
                session.filters.put(was)
            one.refuse(error)
        with suppress(BrokerError):
            await self._sessions.put_queue(session)

    def _join(self, session: Session, granted: list[Granted]) -> None:
        """They are the session's."""
        for one in granted:
            if one.reader is not None:
                one.reader = session.join(one.reader)
                one.reader.open(self._hub)
            elif one.subscribed is not None and one.subscribed.share is None:
                session.filters.put(one.subscribed)

    def _grant(self, session: Session, packet: Subscribe) -> list[Granted]:
        """An answer per filter."""
        fresh: set[str] = set()
        found: list[Granted] = []
        for request in packet.requests:
            one = Granted(request, Reason.UNSPECIFIED_ERROR)
            found.append(one)
            try:
                one.fresh = not session.has(request.filter)
                if one.fresh and request.filter not in fresh:
                    self._check_room(session, len(fresh))
                self._allow(session, one, packet.properties)
            except BrokerError as error:
                one.refuse(error)
            else:
                fresh.update([request.filter] if one.fresh else ())
        return found

    def _check_room(self, session: Session, more: int) -> None:
        """May it have another filter, after so many in the packet? Raises QUOTA_EXCEEDED."""
        if session.count + more >= self._options.max_filters:
            detail = f"{self._options.max_filters} filters; raise mqtt.max_filters"
            self._hub.flow.limited.hit("mqtt.max_filters", session.principal.name, detail)
            raise BrokerError(Code.QUOTA_EXCEEDED, detail)

    def _allow(self, session: Session, granted: Granted, asked: Properties) -> None:
        """Say what is granted: of a group at most QoS 1, because what one member does not answer goes to another; of
        the broker's state 0. Raises BAD_FILTER, FORBIDDEN, RATE_LIMITED, and what a reader by name does."""
        request, qos = granted.request, granted.request.qos
        identifier = next(iter(asked.get("subscription_ids", ())), 0)
        share = shared(request.filter)
        reader = named_tie(Subscribed.of(request, min(qos, 1), identifier), self._hub, self._options, asked)
        if reader is not None:
            reader.check(request)
            granted.reader, granted.subscribed = reader, reader.subscribed
            resource = reader.resource
        else:
            topics = check_filter(request.filter) if share is None else check_logged(share.filter)
            if share is not None:
                check_filter(share.group)  # for its size
                qos = min(qos, 1)
            elif topics.startswith(STATE):
                qos = 0
            granted.subscribed = Subscribed.of(request, qos, identifier)
            resource = on_topic(topics)
        if session.sender is not None and session.sender.asked_for >= self._options.max_filters:
            raise BrokerError(Code.RATE_LIMITED, "retained messages of earlier subscriptions were not taken yet")
        if resource in self._refused:  # no right of anybody's is missing, so it is not 0x87
            raise MqttError(Reason.UNSPECIFIED_ERROR, f"nobody may subscribe to {resource}")
        session.hold(self._hub, request.filter, resource)
        granted.reason = Reason(granted.subscribed.qos)

    def _answer(self, connection: "Connection", packet: Subscribe, granted: list[Granted]) -> None:
        """SUBACK, then what is retained. [MQTT-3.8.4-1, 3.8.4-5, 3.8.4-6]"""
        for one in granted:
            if one.error is not None:
                connection.session.note(one.error, self._hub.wall())
        connection.send(Suback(packet.packet_id, tuple(one.reason for one in granted), _said(granted)))
        asked = [found for one in granted if (found := self._retained_for(one)) is not None]
        if asked and connection.session.sender is not None:
            connection.session.sender.retained(asked)

    def _retained_for(self, granted: Granted) -> Asked | None:
        subscribed, how = granted.subscribed, granted.request.retain_handling
        if subscribed is None or subscribed.share is not None or granted.reader is not None:
            return None
        if how == NEVER or (how == IF_NEW and not granted.fresh):
            return None
        own = written_ids((subscribed.identifier,)) if subscribed.identifier else b""
        end = self._hub.engine.stats().next_offset
        return Asked(subscribed.filter, self._matching, Wanted(subscribed.qos, False, own), end)

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
        reasons = [await self._drop(session, text) for text in packet.filters]
        if session.durable:
            await self._hub.committed(Unit(sets=[session.record()], sender=session))
            await self._sessions.put_queue(session)
        session.read(self._hub)
        connection.send(Unsuback(packet.packet_id, tuple(reasons)))

    async def _drop(self, session: Session, text: str) -> Reason:
        if text not in session.shares:
            return self._remove(session, text)
        session.release(text)
        await self._sessions.groups.leave(session, text)
        return Reason.SUCCESS

    @staticmethod
    def _remove(session: Session, text: str) -> Reason:
        if text in session.readers:
            session.part(text)
            return Reason.SUCCESS
        if not session.filters.remove(text):
            return Reason.NO_SUBSCRIPTION_EXISTED
        session.release(text)
        return Reason.SUCCESS


def _said(granted: list[Granted]) -> Properties:
    """Why filters were refused, and where streams begin, in the order of the filters."""
    said: Properties = {}
    places: list[tuple[str, str]] = []
    whys: list[str] = []
    for one in granted:
        if isinstance(one.reader, StreamTie):
            places += one.reader.told()
        if one.error is not None:
            whys.append(f"{one.request.filter}: {one.error.text}")
    if places:
        said["user"] = places
    if whys:
        said["reason_string"] = "; ".join(whys)[:MAX_REASON]
    return said or NONE


def _reason(error: BrokerError) -> Reason:
    reason = error.reason if isinstance(error, MqttError) else Reason(error.kind.mqtt)
    if reason in FROM_SERVER[Kind.SUBACK]:
        return reason
    return Reason.QUOTA_EXCEEDED if error.kind.http in (429, 503) else Reason.UNSPECIFIED_ERROR
