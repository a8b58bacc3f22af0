"""A bridge at work: it connects to another broker, again and again, and lets messages through both ways.

What it must know over restarts, its name at the other side and the filters that are subscribed there, is in the
key/value store; what waits to be sent is a queue of the engine. Each bridge is one task and harms no other: an
address that is dead costs a thread that waits for it. Floor 4.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from paho.mqtt.client import MQTTMessage
from paho.mqtt.reasoncodes import ReasonCode

from broker.auth.principal import BROKER
from broker.connectors.mqtt_bridge.client import BridgeClient, BridgeError
from broker.connectors.mqtt_bridge.inbound import Inbound
from broker.connectors.mqtt_bridge.mapping import Mapping
from broker.connectors.mqtt_bridge.memory import Memory, key_of
from broker.connectors.mqtt_bridge.options import Address, BridgeOptions
from broker.connectors.mqtt_bridge.outbound import Outbound, queue_of
from broker.connectors.mqtt_bridge.refusals import Refusals
from broker.connectors.mqtt_bridge.translation import Passport
from broker.core.errors import BrokerError
from broker.core.spec import spec_values
from broker.engine.base import SubscriptionInfo
from broker.hub import Hub

log = logging.getLogger(__name__)

TICK, RATE_TICK = 1.0, 0.1
"""Seconds between two looks at what may be stored now; at what may be sent now, where there is a rate."""
SETTLED = 60.0
"""Seconds after which a new subscription has brought what was retained; until then it is made anew after an outage."""


@dataclass(frozen=True, slots=True)
class BridgeStatus:
    """A bridge as operators see it. `state`: `ok`, `connecting`, `failing` (no connection, or a filter that is not
    granted) or `waiting` (what comes cannot be stored now); `error` says why. `backlog` waits to be sent, the oldest
    for `oldest_seconds`; `refusal` is the last thing said of a message that could not be sent or stored. The counts are
    since start: `sent` were confirmed there, `rejected` are dead letters now, `dropped` were over the queue's cap;
    `received` are stored here, `duplicates` and `returned` were here already, `refused` never can be, or came with
    QoS 0 when too much waited."""

    name: str
    state: str
    error: str
    address: str
    refusal: str
    connections: int
    backlog: int
    oldest_seconds: float
    in_flight: int
    sent: int
    rejected: int
    dropped: int
    received: int
    duplicates: int
    returned: int
    refused: int


class Bridge:
    """See the module. `run` is its task; `monotonic` in seconds, `chance` draws from [0, 1)."""

    def __init__(
        self,
        hub: Hub,
        options: BridgeOptions,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._hub = hub
        self._options = options
        self._monotonic = monotonic
        self._chance = chance
        self._sleep = sleep
        self._mapping = Mapping(options.topics)
        self._refusals = Refusals(options.name, monotonic)
        self._inbound = Inbound(hub, self._mapping, options.name, self._refusals)
        self._outbound = Outbound(hub, options, self._mapping, self._refusals, monotonic)
        self._failures = 0
        self._connections = 0
        self._connected = ""
        self._error = ""

    # Its task

    async def prepare(self) -> None:
        """Its queue is there from now on. What stands in its way is told, and found again by `run`."""
        try:
            await self._declare_queue()
        except BrokerError as error:
            self._failed(error.text)
        except Exception:  # an error in the program, which must not keep others from being started
            log.exception("bridge: not prepared", extra=self._fields())

    async def run(self) -> None:
        """Connect and serve until cancelled."""
        while True:
            self._failures += 1
            await self._attempt()
            delay = self._options.reconnects.delay(max(1, self._failures), self._chance())
            await self._sleep((delay or 0) / 1000)

    async def _attempt(self) -> None:
        """Try the addresses in turn until one lets us in, and serve there as long as it lasts."""
        before = self._connections
        for address in self._options.addresses:
            try:
                await self._serve(address)
            except BridgeError as error:
                self._failed(f"{address.text}: {error}")
            except BrokerError as error:
                self._failed(error.text)
            if self._connections > before:
                return

    async def _serve(self, address: Address) -> None:
        """One connection, from its beginning to its end. Raises BridgeError, BrokerError."""
        memory = await self._remembered()
        await self._declare_queue()
        client = BridgeClient(
            self._options, address, memory.client_id, self, self._hub.engine.epoch, self._hub.limits.max_body
        )
        passport = Passport(self._options.name, self._hub.engine.epoch)
        self._inbound.begin(client, passport)
        try:
            await client.open()
            passport = replace(passport, other=client.origin)
            self._inbound.begin(client, passport)
            memory, granted = await self._subscribe(client, memory)
            self._succeeded(client)
            if self._mapping.outgoing:
                self._outbound.begin(client, passport)
            await self._until_lost(client, memory, granted)
        finally:
            self._connected = ""
            self._inbound.end()
            self._outbound.end()
            await client.close()

    async def _until_lost(self, client: BridgeClient, memory: Memory, granted: Memory) -> None:
        """`granted` is to be remembered instead of `memory`, in a while. Raises BridgeError."""
        good_at = self._monotonic() + self._options.backoff_cap / 1000
        settled_at = self._monotonic() + SETTLED
        while True:
            await client.lost(RATE_TICK if self._options.rate else TICK)
            self._inbound.retry()
            self._outbound.top_up()
            if self._outbound.progresses or self._monotonic() >= good_at:
                self._failures = 0
            if memory != granted and self._monotonic() >= settled_at and not self._inbound.waits_for:
                with suppress(BrokerError):  # the disk is low: later
                    await self._keep(granted)
                    memory = granted

    def _succeeded(self, client: BridgeClient) -> None:
        self._connections += 1
        self._connected = client.address.text
        log.info("bridge connected", extra=self._fields(address=self._connected, present=client.session_present))

    def _failed(self, reason: str) -> None:
        if self._error != reason:
            log.warning("bridge: no connection", extra=self._fields(reason=reason))
        self._error = reason

    # What it keeps

    async def _remembered(self) -> Memory:
        """A name of its own is made once, so that the other side knows us after a restart."""
        found = await self._hub.engine.get(key_of(self._options.name))
        memory = Memory.read(found[0]) if found is not None else Memory("")
        wanted = self._options.client_id or memory.client_id or f"postroom-{self._options.name}-{secrets.token_hex(4)}"
        if wanted == memory.client_id:
            return memory
        memory = Memory(wanted)  # under another name nothing is subscribed yet
        await self._keep(memory)
        return memory

    async def _keep(self, memory: Memory) -> None:
        await self._hub.publish(BROKER, [], sets=[memory.kept(self._options.name)])

    async def _declare_queue(self) -> None:
        """Somebody may have deleted it."""
        if not self._mapping.outgoing:
            return
        spec = queue_of(self._options, [entry.local for entry in self._mapping.outgoing])
        before = self._queue()
        if before is None or spec_values(before.spec) != spec_values(spec):
            await self._hub.put_subscription(BROKER, spec)

    def _queue(self) -> SubscriptionInfo | None:
        try:
            return self._hub.engine.subscription(self._options.queue)
        except BrokerError:  # there is none: nothing goes out, or somebody has deleted it
            return None

    async def _subscribe(self, client: BridgeClient, memory: Memory) -> tuple[Memory, Memory]:
        """Ask for what is wanted, and no longer for what once was. The list is on disk before the other side hears of
        it, so that nothing stays subscribed that nobody remembers. Returns what is remembered now, and what is to be
        when all that was granted has settled."""
        entries = self._mapping.incoming
        asked = memory.subscribing(entries, client.address.text, present=client.session_present)
        if asked != memory:
            try:
                await self._keep(asked)
            except BrokerError:  # the disk is low: what is to be sent need not wait for that
                if set(asked.filters) - set(memory.filters) or not client.speaks_5:
                    raise
        refused = await client.subscribe_all(entries, asked)
        wanted = [entry.remote for entry in entries]
        stale = [text for text in asked.filters if text not in wanted]
        await client.unsubscribe_all(stale)
        memory = replace(asked, filters=tuple(wanted))
        if stale:
            await self._keep(memory)
        self._error = "; ".join(refused.values())
        if refused:
            log.warning("bridge: not all is granted", extra=self._fields(reason=self._error))
        settled = tuple((entry.remote, entry.qos) for entry in entries if entry.remote not in refused)
        return memory, replace(memory, settled=settled)

    # What its connection brings

    def received(self, message: MQTTMessage) -> None:
        """PUBLISH."""
        self._inbound.received(message)

    def confirmed(self, mid: int, reason: ReasonCode) -> None:
        """PUBACK."""
        self._outbound.confirmed(mid, reason)

    # The daemon's side

    def drain(self) -> None:
        """The daemon stops: nothing new begins."""
        self._inbound.drain()
        self._outbound.drain()

    def status(self) -> BridgeStatus:
        """How it fares."""
        inbound, outbound = self._inbound, self._outbound
        queue = self._queue()
        waits = inbound.waits_for if self._connected else ""
        well = "ok" if self._connected else "connecting"
        oldest = queue.oldest_at if queue is not None else None
        return BridgeStatus(
            name=self._options.name,
            state="waiting" if waits else "failing" if self._error else well,
            error=waits or self._error,
            address=self._connected or self._options.address[0],
            refusal=self._refusals.last,
            connections=self._connections,
            backlog=queue.ready + queue.leased + queue.delayed + queue.blocked if queue is not None else 0,
            oldest_seconds=0.0 if oldest is None else max(0.0, self._hub.wall() - oldest / 1000),
            in_flight=outbound.in_flight,
            sent=outbound.sent,
            rejected=queue.dead if queue is not None else 0,
            dropped=queue.dropped if queue is not None else 0,
            received=inbound.stored,
            duplicates=inbound.duplicates,
            returned=inbound.returned,
            refused=inbound.refused,
        )

    def _fields(self, **fields: object) -> dict[str, object]:
        return {"bridge": self._options.name, **fields}
