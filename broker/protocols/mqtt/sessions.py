"""All sessions by client identifier: begun, resumed, taken over, ended; as they were before at the next start. Floor 4.

What changes one takes its lock, so that two connections of one client are served one after the other.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, ItemsView, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from broker.auth.grant import on_topic
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.core.subscription import Spec
from broker.core.topic import check_filter
from broker.engine.base import Set, Unit
from broker.hub import Hub
from broker.protocols.mqtt.codec.packets import Connect
from broker.protocols.mqtt.groups import Groups
from broker.protocols.mqtt.kept import INBOUND, OUTBOUND, SESSIONS, WILLS, SessionRecord, escaped
from broker.protocols.mqtt.options import MqttOptions
from broker.protocols.mqtt.session import Session, named_tie, own_queue
from broker.protocols.mqtt.turns import Turns
from broker.protocols.mqtt.wills import Wills

if TYPE_CHECKING:
    from broker.protocols.mqtt.connection import Connection

logger = logging.getLogger(__name__)
QUEUES = "mqtt/"


class Sessions:
    """See the module. `principal_of` finds who has a name: of sessions that were kept."""

    def __init__(
        self,
        hub: Hub,
        options: MqttOptions,
        groups: Groups,
        wills: Wills,
        principal_of: Callable[[str], Principal],
    ) -> None:
        self._hub = hub
        self._options = options
        self.groups = groups
        self.wills = wills
        self._principal_of = principal_of
        self._sessions: dict[str, Session] = {}
        self._away: dict[str, Session] = {}  # kept, and nobody is connected
        self._by_principal: Counter[str] = Counter()
        self._turns = Turns()
        self._resuming: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False

    def __len__(self) -> int:
        return len(self._sessions)

    def _check_room(self, principal: Principal) -> None:
        """For one more. Raises OVERLOADED, QUOTA_EXCEEDED."""
        most, each = self._options.max_sessions, self._options.sessions_per_principal
        felt = self._hub.flow.limited
        if len(self._sessions) >= most:
            detail = f"there are {most} sessions; raise mqtt.max_sessions"
            felt.hit("mqtt.max_sessions", "", detail)
            raise BrokerError(Code.OVERLOADED, detail)
        if self._by_principal[principal.name] >= each:
            detail = f"{principal.name} has {each} sessions; raise mqtt.sessions_per_principal"
            felt.hit("mqtt.sessions_per_principal", principal.name, detail)
            raise BrokerError(Code.QUOTA_EXCEEDED, detail)

    def _add(self, session: Session) -> None:
        self._sessions[session.client_id] = session
        self._by_principal[session.principal.name] += 1

    def _remove(self, session: Session) -> None:
        self._away.pop(session.client_id, None)
        if self._sessions.pop(session.client_id, None) is not None:
            name = session.principal.name
            self._by_principal[name] -= 1
            if not self._by_principal[name]:
                del self._by_principal[name]

    def find(self, client_id: str) -> Session | None:
        """The session of a client, if it has one."""
        return self._sessions.get(client_id)

    def all(self) -> list[Session]:
        """All of now."""
        return list(self._sessions.values())

    def items(self) -> ItemsView[str, Session]:
        """Client identifiers and their sessions. Not over a change."""
        return self._sessions.items()

    @property
    def away(self) -> int:
        """How many are kept while nobody is connected."""
        return len(self._away)

    # At start

    async def load(self) -> None:
        """Take up what was kept, and make the queues what the sessions say."""
        engine = self._hub.engine
        for _, value, _ in await engine.items(SESSIONS):
            self._restore(SessionRecord.read(value))
        by_name = {escaped(client_id): session for client_id, session in self._sessions.items()}
        owned, sent = await self._identifiers(by_name)
        for name, session in by_name.items():
            session.restore(owned[name], sent[name])
        for _, value, _ in await engine.items(WILLS):
            self.wills.restore(value, self._principal_of, self._expiry_of)
        await self._reconcile()

    def _expiry_of(self, client_id: str) -> int:
        session = self._sessions.get(client_id)
        return 0 if session is None else session.expiry

    def _restore(self, record: SessionRecord) -> None:
        principal = self._principal_of(record.principal).as_client(record.client_id)
        session = Session(record.client_id, principal, durable=True, expiry=record.expiry)
        session.away = self._hub.wall() if record.away is None else record.away
        for subscribed in record.filters:
            reader = named_tie(subscribed, self._hub, self._options)
            if reader is not None:
                session.join(reader)
            elif subscribed.share is None:
                session.filters.put(subscribed)
            else:
                self.groups.remember(session, subscribed)
        self._add(session)
        self._away[record.client_id] = session

    async def _identifiers(
        self, by_name: dict[str, Session]
    ) -> tuple[dict[str, list[int]], dict[str, list[tuple[int, int]]]]:
        """Those of inbound and outbound QoS 2, in the order in which they were sent or released last; what belongs to
        no session any more is deleted."""
        engine = self._hub.engine
        owned: dict[str, list[int]] = defaultdict(list)
        sent: dict[str, list[tuple[int, int]]] = defaultdict(list)
        orphans: list[Set] = []
        for prefix in (INBOUND, OUTBOUND):
            for key, value, _ in sorted(await engine.items(prefix), key=itemgetter(2)):
                name, _, packet_id = key.removeprefix(prefix).rpartition("/")
                if name not in by_name:
                    orphans.append(Set(key, None))
                elif prefix is INBOUND:
                    owned[name].append(int(packet_id))
                else:
                    sent[name].append((int(packet_id), int(value) if value else -1))
        if orphans:
            await self._hub.committed(Unit(sets=orphans, sender=self))
        return owned, sent

    async def _reconcile(self) -> None:
        engine = self._hub.engine
        there = {spec.name: spec for spec in engine.specs() if spec.name.startswith(QUEUES)}
        wanted: dict[str, Spec] = {}
        for session in self.all():
            spec = session.spec(self._options) or session.closing(engine, self._options)
            if spec is not None:
                wanted[session.queue] = spec
        for name in self.groups.names():
            if name not in there:
                text = name.removeprefix("mqtt/$share/").partition("/")[2]
                wanted[name] = own_queue(name, (check_filter(text),), self._options)
        for name in there.keys() - wanted.keys() - set(self.groups.names()):
            await engine.delete_subscription(name)
        for name, spec in wanted.items():
            if name not in there or there[name].topics != spec.topics:
                await engine.put_subscription(spec)

    # A client connects

    def open_now(self, client_id: str, principal: Principal, packet: Connect, expiry: int) -> Session | None:
        """The quick way, for a new session that ends with its connection; None: it takes `open`."""
        plain = not expiry and packet.will is None and client_id not in self._sessions
        if not plain or client_id in self._turns or client_id in self.wills:
            return None
        self._check_room(principal)
        session = Session(client_id, principal, durable=False, expiry=0)
        self._add(session)
        return session

    async def open(self, connection: "Connection", client_id: str, packet: Connect, expiry: int) -> None:
        """Resume the client's session or begin one, then `connection.begin`. Raises FORBIDDEN for another principal's,
        OVERLOADED for one too many. [MQTT-3.1.2-4, 3.1.2-5, 3.1.4-3]"""
        principal = connection.identified
        async with self.turn(client_id):
            before = self._sessions.get(client_id)
            if before is not None and before.principal.name != principal.name:
                raise BrokerError(Code.FORBIDDEN, f"the client identifier {client_id!r} is another principal's")
            if before is not None and before.connection is not None:
                before.connection.taken_over()
            if before is not None and (packet.clean_start or not before.durable or _is_over(before, self._hub.wall())):
                await self._end(before)
                before = None
            if before is None:
                self._check_room(principal)
            session = before or Session(client_id, principal, durable=expiry > 0, expiry=expiry)
            session.principal, session.expiry, session.away = principal, expiry, None
            sets, take_back = self.wills.put(client_id, principal, packet.will)
            try:
                await self._keep(session, sets)
            except BrokerError:
                take_back()
                if before is not None:  # it is away as it was
                    session.away = self._hub.wall()
                raise
            self._away.pop(client_id, None)
            if before is None:
                self._add(session)
            if connection.closed:  # it went meanwhile
                self._leave(session, willing=False)
            else:
                connection.begin(session, packet, present=before is not None)
                if session.resuming:
                    self._resuming.add(session)

    async def _keep(self, session: Session, sets: list[Set]) -> None:
        """What is kept of it is on disk before the client is told. Filters that it may no longer read are taken out,
        and those of queues and streams that are gone."""
        for entry in [*session.filters, *(next(iter(tie.filters)) for tie in session.shares.values())]:
            share = entry.share
            try:
                session.hold(self._hub, entry.filter, on_topic(entry.filter if share is None else share.filter))
            except BrokerError:
                if share is None:
                    session.filters.remove(entry.filter)
                    await self.put_queue(session)
                else:
                    await self.groups.leave(session, entry.filter)
        for text, reader in list(session.readers.items()):
            try:
                session.hold(self._hub, text, reader.resource)
                there = reader.there(self._hub)
            except BrokerError:
                there = False
            if not there:
                session.part(text)
        if session.durable:
            sets = [*sets, session.record(), *await session.take_up(self._hub.engine)]
        if sets:
            await self._hub.committed(Unit(sets=sets, sender=session))

    async def put_queue(self, session: Session, more: Sequence[str] = (), *, finish: bool = False) -> None:
        """Make its queue what its filters say, and these, which are not its yet. `finish`: what waits in a queue that
        it needs no more is still delivered. Raises what the hub does."""
        if session.own is None:
            return
        spec = session.spec(self._options, more)
        if spec is None and finish:
            spec = session.closing(self._hub.engine, self._options)
        if spec is not None:
            await self._hub.put_own(spec)
        else:
            session.own.detach()
            with suppress(BrokerError):
                await self._hub.engine.delete_subscription(session.queue)

    # It goes

    def lost(self, session: Session, connection: "Connection", *, willing: bool) -> None:
        """The connection is gone; `willing`: as the client wished, so that its will is void."""
        if session.connection is not connection:
            return
        session.disconnect(lost=not (willing or self.stopping))
        self._leave(session, willing=willing)

    def _leave(self, session: Session, *, willing: bool) -> None:
        session.release_all()
        session.away = self._hub.wall()
        if self.stopping:
            if session.moved:
                self._commit([session.record()], session)
            return
        if willing:
            self.wills.drop(session.client_id)
        else:
            self.wills.lost(session.client_id, session.expiry)
        if session.expiry:
            self._away[session.client_id] = session
            self._commit([session.record()], session)
        elif not session.durable and not session.shares and session.client_id not in self._turns:
            self._remove(session)
        else:
            self._spawn(self._expire(session))

    def _commit(self, sets: Sequence[Set], session: Session) -> None:
        with suppress(BrokerError):  # the next start takes it for away since then
            self._hub.commit(Unit(sets=list(sets), sender=session))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self, session: Session) -> None:
        """End it unless somebody has come meanwhile."""
        async with self.turn(session.client_id):
            there = self._sessions.get(session.client_id) is session
            if there and session.connection is None and _is_over(session, self._hub.wall()):
                with suppress(BrokerError):
                    await self._end(session)

    async def _end(self, session: Session) -> None:
        """It is over: nothing of it is left. [MQTT-3.1.2-23]"""
        self._remove(session)
        session.release_all()
        self.wills.ended(session.client_id)
        for text in list(session.shares):
            await self.groups.leave(session, text)
        if session.durable:
            await self._hub.committed(Unit(sets=session.forgotten(), sender=session))
            with suppress(BrokerError):
                await self._hub.engine.delete_subscription(session.queue)

    async def forget(self, client_id: str, error: BrokerError) -> bool:
        """End a client's session, and its connection with this error; False when there is none."""
        async with self.turn(client_id):
            session = self._sessions.get(client_id)
            if session is None:
                return False
            if session.connection is not None:
                session.connection.fail(error)
            await self._end(session)
            return True

    def tick(self) -> None:
        """End sessions and publish wills whose time has come."""
        self.wills.tick()
        now = self._hub.wall()
        for session in [session for session in self._away.values() if _is_over(session, now)]:
            self._spawn(self._expire(session))
        for session in list(self._resuming):
            if not session.resuming:
                self._resuming.discard(session)
            elif session.gone(self._hub.engine):
                self._spawn(self._go_on(session))

    async def _go_on(self, session: Session) -> None:
        """What its client could not take again at once has expired, or was dropped: nothing waits for it any more."""
        async with self.turn(session.client_id):
            if session.resuming:
                if freed := await session.take_up(self._hub.engine):
                    self._commit(freed, session)
                session.go_on()

    def prolong(self) -> None:
        """Leases of who is connected go on."""
        for session in self._sessions.values():
            if session.connection is not None:
                session.prolong()

    def keep_places(self) -> None:
        """Note where those stand who read streams, so that not too much comes again after a crash."""
        for session in self._sessions.values():
            if session.moved:
                self._commit([session.record()], session)

    async def stop(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def turn(self, client_id: str) -> AbstractAsyncContextManager[None]:
        """Whoever changes this client's session and waits for the disk meanwhile does it within this."""
        return self._turns.turn(client_id)


def _is_over(session: Session, now: float) -> bool:
    return session.away is not None and session.away + session.expiry <= now
