"""What another broker sends us: stored, then acknowledged there, in this order and never the other way round.

What arrives while a commit is under way forms the next one. What can never be stored is acknowledged and counted, so
that it does not come again and stops nothing; when nothing can be stored now, all of it waits here, unanswered, and the
other broker sends no more than it may. What is retained there is retained here, by the same commit. Floor 4.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from paho.mqtt.client import MQTTMessage

from broker.auth.principal import BROKER
from broker.connectors.mqtt_bridge.client import BridgeClient
from broker.connectors.mqtt_bridge.mapping import Mapping
from broker.connectors.mqtt_bridge.refusals import Refusals
from broker.connectors.mqtt_bridge.translation import Passport, read
from broker.core.errors import BrokerError, Code
from broker.core.message import Draft
from broker.core.mqtt import packed
from broker.engine.base import ITEM_BYTES, Receipt, Set, Unit
from broker.hub import Hub
from broker.retained import Retaining

log = logging.getLogger(__name__)

MAX_UNIT, UNIT_BYTES = 1_000, 4 << 20
MAX_WAITING_BYTES = 64 << 20
"""Of what waits here; more than that is not kept: the connection is ended, and what was not acknowledged comes
again. QoS 0 does not, stays over the end of a connection, and may therefore take half of it; the rest is lost."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message that is to be stored; `mid` 0 is nobody's to acknowledge. `client` brought it. `retain`: it becomes the
    retained one of its topic. `behind`: what came behind it and needs no commit is acknowledged after it, because the
    protocol wants the order kept [MQTT-4.6.0-2]."""

    client: BridgeClient
    mid: int
    draft: Draft
    size: int
    retain: bool
    behind: list[int] = field(default_factory=list)


class Inbound:
    """Of one bridge, over all its connections."""

    def __init__(self, hub: Hub, mapping: Mapping, name: str, refusals: Refusals) -> None:
        self._hub = hub
        self._mapping = mapping
        self._name = name
        self._owner = f"$bridge/{name}"  # of what is retained: each bridge has a principal's part, and nobody's name
        self._refusals = refusals
        self._waiting: deque[Arrived] = deque()
        self._size = 0
        self._most = MAX_UNIT  # fewer where a unit was refused, to find what can be stored
        self._batch: list[Arrived] = []  # it is being committed, and still at the head of what waits
        self._flushes = False
        self._draining = False
        self.client: BridgeClient | None = None
        self.passport = Passport(name, hub.engine.epoch)
        self.waits_for = ""
        self.stored = self.duplicates = self.returned = self.refused = 0

    def begin(self, client: BridgeClient, passport: Passport) -> None:
        """Another connection. What waits of the last one is stored, but cannot be acknowledged any more."""
        self.client, self.passport = client, passport

    def received(self, message: MQTTMessage) -> None:
        """A message. Whatever is wrong with it concerns it alone."""
        client = self.client
        if client is None or self._draining:
            return
        mid = message.mid if message.qos else 0
        # Without Retain As Published a live message does not say whether it is: what was retained first would stay.
        retain = message.retain and client.speaks_5
        try:
            draft = self._draft(message, retain=retain)
        except (BrokerError, UnicodeError) as error:
            self._refuse(error.text if isinstance(error, BrokerError) else f"its topic is not UTF-8: {error}")
            draft = None
        if draft is None:
            if mid:
                self._acknowledge_in_turn(client, mid)
            return
        size = len(draft[2]) + len(draft[1] or b"")
        if not mid and self._size > MAX_WAITING_BYTES // 2:
            self._refuse("of QoS 0 more came than can be stored now")
            return
        self._size += size + ITEM_BYTES
        self._waiting.append(Arrived(client, mid, draft, size, retain))
        if self._size > MAX_WAITING_BYTES:
            client.fail("it sent more than can be stored now")
        elif not self._flushes and not self._batch and not self.waits_for:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _draft(self, message: MQTTMessage, *, retain: bool) -> Draft | None:
        """Its stored form; None for one that has been here. Raises what refuses it, UnicodeError for its topic."""
        hub, body = self._hub, bytes(message.payload)
        way = self._mapping.into(message.topic)
        if way is None:
            raise BrokerError(Code.BAD_TOPIC, f"{message.topic!r} is none of this bridge's topics")
        topic = hub.check_publish(BROKER, way[0])
        if len(body) > hub.limits.max_body:
            raise hub.limits.body_too_large(len(body))
        said = read(message)
        if not self.passport.enters(said):
            self.returned += 1
            return None
        said = self.passport.admitted(said)
        return topic, packed(message.qos, retain, said, int(hub.wall() * 1000), bridge=self._name), body

    def _acknowledge_in_turn(self, client: BridgeClient, mid: int) -> None:
        if self._waiting and self._waiting[-1].client is client:
            self._waiting[-1].behind.append(mid)
        else:
            client.acknowledge((mid,))

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._refusals.tell(why)

    # Commits

    def retry(self) -> None:
        """Called each second or so: what waits may be stored now."""
        if not self._flushes:
            self._flush()

    def _flush(self) -> None:
        self._flushes = False
        if self._batch or not self._waiting:
            return
        size = 0
        for arrived in self._waiting:
            size += arrived.size
            if self._batch and (len(self._batch) >= self._most or size > UNIT_BYTES):
                size -= arrived.size
                break
            self._batch.append(arrived)
        unit = Unit([arrived.draft for arrived in self._batch], sender=self, size=size)
        unit.done = partial(self._done, self._retain(unit.sets))
        try:
            self._hub.commit(unit)
        except BrokerError as error:
            self._done([], Receipt(error=error))

    def _retain(self, sets: list[Set]) -> list[Retaining]:
        """What is retained of the batch, by these writes."""
        retained = self._hub.retained
        kept: list[Retaining] = []
        for index, arrived in enumerate(self._batch):
            if not arrived.retain:
                continue
            draft = arrived.draft
            try:
                retained.check(draft, self._owner)
            except BrokerError as error:
                self._refusals.tell(f"{draft[0]!r} is stored, but not retained: {error.text}")
                draft = (draft[0], None, b"")  # nothing is better than what was true before
            kept.append(retained.keep(sets, draft, index, self._owner))
        return kept

    def _done(self, kept: Sequence[Retaining], receipt: Receipt) -> None:
        batch, self._batch = self._batch, []
        error = receipt.error
        if error is not None and len(batch) > 1 and (not error.passing or error.code is Code.QUEUE_FULL):
            self._most = len(batch) // 2
        elif error is not None and error.passing:
            self._wait(error)
            return
        else:
            if error is None:
                self._hub.retained.committed(receipt, kept)
            self._answer(batch, receipt)
        self._flush()

    def _answer(self, batch: Sequence[Arrived], receipt: Receipt) -> None:
        """They are on disk; or it is one, and it never will be."""
        self.waits_for = ""
        if receipt.error is not None:
            self._refuse(receipt.error.text)
        else:
            self._most = min(2 * self._most, MAX_UNIT)
            self.duplicates += len(receipt.duplicates)
            self.stored += len(batch) - len(receipt.duplicates)
        for arrived in batch:
            self._waiting.popleft()
            self._size -= arrived.size + ITEM_BYTES
        if self.client is not None:
            mine = [(arrived.mid, *arrived.behind) for arrived in batch if arrived.client is self.client]
            self.client.acknowledge(mid for mids in mine for mid in mids if mid)

    def _wait(self, error: BrokerError) -> None:
        if self.waits_for != error.text:
            log.warning("bridge waits", extra={"bridge": self._name, "reason": error.text, "code": error.code.value})
        self.waits_for = error.text

    def drain(self) -> None:
        """Take no more: what is not acknowledged comes again after the next start."""
        self._draining = True

    def end(self) -> None:
        """The connection is gone. What is not being committed comes again with the next one, but for QoS 0."""
        self.client = None
        rest = [arrived for arrived in islice(self._waiting, len(self._batch), None) if not arrived.mid]
        self._waiting = deque([*self._batch, *rest])
        self._size = sum(arrived.size + ITEM_BYTES for arrived in self._waiting)
