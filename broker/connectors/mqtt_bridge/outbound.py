"""What we send another broker: the consumer of a queue whose messages are settled by the other side's PUBACK.

Credit of the engine is the window: it hands over what may be in flight, in order, and after a lost connection the same
again, before anything else. What the other side refuses for good goes to the dead letters with its reason; so does a
message at which it hangs up again and again, which is found out by sending it alone. Floor 4.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from paho.mqtt.reasoncodes import ReasonCode

from broker.auth.principal import BROKER
from broker.connectors.mqtt_bridge.client import BridgeClient, BridgeError
from broker.connectors.mqtt_bridge.mapping import Mapping
from broker.connectors.mqtt_bridge.options import BridgeOptions
from broker.connectors.mqtt_bridge.refusals import Refusals
from broker.connectors.mqtt_bridge.translation import Passport, written
from broker.core.errors import BrokerError
from broker.core.message import Row
from broker.core.mqtt import Heard, first_topic
from broker.core.retry import RetryPolicy
from broker.core.subscription import Delivery, Kind, Outcome, Overflow, Spec
from broker.engine.base import Attachment
from broker.hub import Hub

log = logging.getLogger(__name__)

LEASE = 86_400_000
"""Milliseconds. A lease ends with its connection; this only bounds how long the other side may keep silent."""
IN_FLIGHT_BYTES = 8 << 20
MAX_HANG_UPS = 5
"""Connections lost over one message that was alone in flight, before it goes to the dead letters."""
PATIENT = RetryPolicy(cap=60_000, jitter=0.0, max_attempts=1 << 52)
"""Without jitter, so that what was refused together goes out in its order."""
TEMPORARY = frozenset((0x80, 0x91, 0x97))
"""Reasons (MQTT 5 §2.4) that say nothing about the message: unspecified, identifier in use, quota exceeded."""
HEAD_BYTES, STAMP_BYTES = 13, 1_024
"""Of a PUBLISH beside topic, properties and body, and of the properties that a bridge adds, at most."""


def queue_of(options: BridgeOptions, filters: Sequence[str]) -> Spec:
    """The queue of what is to be sent."""
    return Spec(
        options.queue,
        Kind.QUEUE,
        tuple(dict.fromkeys(filters)),
        lease=LEASE,
        retry=PATIENT,
        max_deliveries=MAX_HANG_UPS,
        max_messages=options.queued_messages,
        max_bytes=options.queued_bytes,
        overflow=Overflow.DROP_OLDEST,
    )


class Allowance:
    """A token bucket: `rate` messages per second, a second's worth at once; 0: no bound."""

    def __init__(self, rate: int, monotonic: Callable[[], float]) -> None:
        self._rate = rate
        self._monotonic = monotonic
        self._left = float(rate)
        self._at = monotonic()

    def take(self, wanted: int) -> int:
        """How many of these may go now."""
        if not self._rate or wanted <= 0:
            return max(0, wanted)
        now = self._monotonic()
        self._left = min(float(self._rate), self._left + (now - self._at) * self._rate)
        self._at = now
        taken = min(wanted, int(self._left))
        self._left -= taken
        return taken


class Letter(NamedTuple):
    """A message on its way. `size` of its body."""

    offset: int
    size: int


Verdict = tuple[Outcome, str | None]
"""What becomes of a message, and why."""
DELIVERED: Verdict = (Outcome.ACK, None)


class Outbound:
    """Of one bridge, over all its connections."""

    def __init__(
        self,
        hub: Hub,
        options: BridgeOptions,
        mapping: Mapping,
        refusals: Refusals,
        monotonic: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._options = options
        self._mapping = mapping
        self._refusals = refusals
        self._allowance = Allowance(options.rate, monotonic)
        self._client: BridgeClient | None = None
        self._attachment: Attachment | None = None
        self._passport = Passport(options.name, hub.engine.epoch)
        self._in_flight: dict[int, Letter] = {}
        self._judged: list[tuple[Verdict, Letter]] = []
        self._credit = 0  # granted, and not settled yet
        self._window = 0
        self._progress = False  # something was answered on this connection
        self._suspicious = False  # the last one was lost before anything was
        self._draining = False
        self.sent = 0

    @property
    def progresses(self) -> bool:
        """Has the other side answered anything on this connection?"""
        return self._progress

    @property
    def in_flight(self) -> int:
        """Messages without an answer."""
        return len(self._in_flight)

    def begin(self, client: BridgeClient, passport: Passport) -> None:
        """Another connection: send on it. Raises what the queue refuses."""
        self._client, self._passport = client, passport
        self._window = 1 if self._suspicious else min(self._options.inflight, client.window)
        self._progress = False
        self._credit = 0
        self._attachment = self._hub.attach(BROKER, self._options.queue, self)
        self._attachment.grant(0, IN_FLIGHT_BYTES)
        self.top_up()

    def end(self) -> None:
        """The connection is gone: what was in flight is ready again."""
        attachment, client = self._attachment, self._client
        if attachment is not None and client is not None:
            self._settle(attachment)
            alone = self._window == 1
            if self._in_flight:
                self._suspicious = client.hung_up and not self._progress
            if self._in_flight and self._suspicious and alone:
                self._refusals.tell("the other broker closed the connection over a message that was sent alone")
                attachment.started([letter.offset for letter in self._in_flight.values()])
            attachment.detach(lost=self._suspicious and alone)
        self._attachment = self._client = None
        self._in_flight.clear()
        self._judged.clear()

    def drain(self) -> None:
        """Take no more; what is in flight may still be confirmed."""
        self._draining = True
        if self._attachment is not None:
            self._attachment.grant(len(self._in_flight) + len(self._judged) - self._credit, 0)

    # The engine's side

    def deliver(self, delivery: Delivery) -> None:
        """Send these. What becomes of one that is not sent is settled later: the next would overtake the rest."""
        client = self._client
        if client is None:
            return
        now = int(self._hub.wall() * 1000)
        for row in delivery.rows:
            letter = Letter(row[0], len(row[4]))
            try:
                mid = self._send(client, row, now)
            except ValueError as error:
                self._reject(letter, str(error))
            except BridgeError as error:
                client.fail(str(error))
                return
            else:
                if mid is None:
                    self._judge(letter, DELIVERED)
                else:
                    self._in_flight[mid] = letter

    def _send(self, client: BridgeClient, row: Row, now: int) -> int | None:
        """What PUBACK will name; None for a message that has no business there. Raises ValueError for one that can
        never go, BridgeError when the connection is gone."""
        _, _, _, meta, body = row
        heard = Heard(row)
        if not self._passport.leaves(heard):
            return None
        topic = first_topic(row)
        way = self._mapping.out(topic)
        if way is None:  # it has waited while the configuration was changed
            raise ValueError(f"{topic!r} is none of this bridge's topics, or has no name there")
        name, qos = way
        retain = heard.retain and client.retains
        if not client.speaks_5:
            return client.send(name, body, qos, retain, None)
        properties = written(self._passport.stamped(heard, row, now))
        size = HEAD_BYTES + 4 * len(name) + len(body)
        if size + 2 * len(meta or b"") + STAMP_BYTES > client.largest:
            size += len(properties.pack())  # type: ignore[no-untyped-call]
            if size > client.largest:
                raise ValueError(f"it takes {size} bytes, the other broker takes {client.largest}")
        return client.send(name, body, min(qos, client.maximum_qos), retain, properties)

    def detached(self, error: BrokerError) -> None:
        """The queue is gone, or the engine stops."""
        self._attachment = None
        self._in_flight.clear()
        if self._client is not None:
            self._client.fail(error.text)

    # The other side's answers

    def confirmed(self, mid: int, reason: ReasonCode) -> None:
        """PUBACK."""
        letter = self._in_flight.pop(mid, None)
        if letter is None:
            return
        if reason.value < 0x80:
            self.sent += 1
            self._judge(letter, DELIVERED)
        elif reason.value in TEMPORARY:
            self._refuse(letter, Outcome.RETRY, f"{reason}; it is sent again")
        else:
            self._reject(letter, f"the other broker refused it: {reason}")

    def _reject(self, letter: Letter, why: str) -> None:
        self._refuse(letter, Outcome.REJECT, why)

    def _refuse(self, letter: Letter, outcome: Outcome, why: str) -> None:
        self._refusals.tell(why)
        self._judge(letter, (outcome, why))

    def _judge(self, letter: Letter, verdict: Verdict) -> None:
        """Settled with all else that is judged in this turn of the loop."""
        if not self._judged:
            asyncio.get_running_loop().call_soon(self._flush)
        self._judged.append((verdict, letter))

    def _flush(self) -> None:
        if self._attachment is not None:
            self._settle(self._attachment)
            self.top_up()

    def _settle(self, attachment: Attachment) -> None:
        judged, self._judged = self._judged, []
        if not judged:
            return
        self._go_on()
        for (outcome, why), group in groupby(judged, itemgetter(0)):
            letters = [letter for _, letter in group]
            self._credit -= len(letters)
            try:
                attachment.settle(outcome, [letter.offset for letter in letters], error=why)
                attachment.grant(0, sum([letter.size for letter in letters]))
            except BrokerError as error:  # they come again
                log.warning("bridge: a settle was refused", extra={"bridge": self._options.name, "error": error.text})

    def _go_on(self) -> None:
        """The other side answers: what is wrong with a message is not what ends connections."""
        if not self._progress and self._client is not None:
            self._progress, self._suspicious = True, False
            self._window = min(self._options.inflight, self._client.window)

    def top_up(self) -> None:
        """Let as many come as may be in flight now. Also called several times a second, where there is a rate."""
        if self._attachment is None or self._draining:
            return
        more = self._allowance.take(self._window - self._credit)
        if more:
            self._credit += more
            self._attachment.grant(more, 0)
