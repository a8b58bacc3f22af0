"""The door's own consumer of a queue, on behalf of all HTTP workers of that queue.

Requests come and go while leases stay, so that one attachment per queue outlives the requests: each waiting request
adds credit for what it asked, in order of arrival; what arrives when nobody waits any more is released at once. An
attachment that holds nothing and waits for nobody is let go after a while. Floor 4.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from broker.auth.grant import Verb
from broker.auth.principal import BROKER, Principal
from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.subscription import Delivery, Outcome
from broker.engine.base import Attachment
from broker.hub import Hub
from broker.protocols.http.receipt import Receipt

SWEEP_SECONDS = 5.0
"""How often receivers are looked over."""
IDLE_SECONDS = 15.0
"""For how long an attachment stays that holds nothing and waits for nobody."""
RESPONSE_BYTES = 4 << 20
"""Bytes of bodies that one answer may carry, unless a single message is larger."""


@dataclass(frozen=True, slots=True)
class Handed:
    """Messages for one request."""

    rows: Sequence[Row]
    lease: int
    attempts: Mapping[int, tuple[int, int]]


NOTHING = Handed((), 0, {})


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits for up to `count` messages."""

    count: int
    future: asyncio.Future[Handed]


@dataclass(slots=True)
class Hold:
    """A lease that a worker has by a receipt; `until` is monotonic seconds."""

    lease: int
    until: float


class Receiver:
    """See the module; a Consumer of the engine's. `clock` gives monotonic seconds."""

    def __init__(self, hub: Hub, name: str, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._name = name
        self._clock = clock
        self._attachment: Attachment | None = None
        self._waiters: deque[Waiter] = deque()
        self._holds: dict[int, Hold] = {}
        self._wanted = 0  # messages that waiters wait for
        self._credit = 0  # messages granted and not delivered
        self._room = 0  # bytes granted and not delivered
        self._surplus: list[int] = []
        self._used = clock()
        self.lease = 0  # ms; what the queue's owner set

    @property
    def holding(self) -> int:
        """How many messages workers have by receipts of this door."""
        return len(self._holds)

    # Asked by routes

    def open(self, principal: Principal) -> None:
        """Be attached, in the broker's name: the attachment outlives who opened it, and each request asks for itself.
        Raises UNKNOWN_SUBSCRIPTION, WRONG_KIND, FORBIDDEN, SHUTTING_DOWN."""
        lease = self._hub.queue(principal, self._name, Verb.CONSUME).spec.lease
        if self._attachment is None:
            self.lease = lease
            self._attachment = self._hub.attach(BROKER, self._name, self)

    def refresh(self) -> None:
        """The queue's settings may have changed."""
        with suppress(BrokerError):
            self.lease = self._hub.engine.subscription(self._name).spec.lease

    async def receive(self, count: int, wait: float) -> Handed:
        """Up to `count` messages, as soon as there is one; NOTHING after `wait` seconds. Call `open` first. Raises
        BrokerError when the queue goes away meanwhile. Cancelling gives back what was about to be handed over."""
        waiter = Waiter(count, asyncio.get_running_loop().create_future())
        self._enqueue(waiter)
        try:
            async with asyncio.timeout(wait):
                return await waiter.future
        except TimeoutError:
            return waiter.future.result() if _answered(waiter.future) else NOTHING
        except asyncio.CancelledError:
            if _answered(waiter.future):
                self.give_back(waiter.future.result())
            raise
        finally:
            self._leave(waiter)

    def give_back(self, handed: Handed) -> None:
        """The worker is gone before it got them: ready again at once, at no cost."""
        self._release([row[0] for row in handed.rows if self.forget(Receipt(row[0], handed.lease))])

    def extend(self, receipt: Receipt, duration: int) -> bool:
        """Prolong a lease to `duration` ms from now; False when it has ended."""
        hold = self._holds.get(receipt.offset)
        if self._attachment is None or hold is None or hold.lease != receipt.lease:
            return False
        if self._attachment.extend([receipt.offset], duration):
            del self._holds[receipt.offset]
            return False
        hold.until = self._clock() + duration / 1000
        return True

    def forget(self, receipt: Receipt) -> bool:
        """This lease was ended by a settle; False when it was not known as running."""
        hold = self._holds.get(receipt.offset)
        if hold is None or hold.lease != receipt.lease:
            return False
        del self._holds[receipt.offset]
        return True

    def sweep(self) -> bool:
        """Forget leases that ran out; False when this receiver was idle for long and has detached."""
        now = self._clock()
        if self._waiters or self._holds:
            self._used = now
        for offset in [offset for offset, hold in self._holds.items() if hold.until <= now]:
            del self._holds[offset]
        if self._waiters or self._holds or now < self._used + IDLE_SECONDS:
            return True
        self._detach()
        return False

    def close(self, error: BrokerError) -> None:
        """Tell everybody who waits, and let go."""
        self._detach()
        self._fail(error)

    # Called by the engine

    def deliver(self, delivery: Delivery) -> None:
        """Share out among those who wait, in order of arrival."""
        rows = delivery.rows
        self._credit -= len(rows)
        self._room -= sum(len(row[4]) for row in rows)
        at = 0
        while at < len(rows) and self._waiters:
            waiter = self._waiters.popleft()
            self._wanted -= waiter.count
            if waiter.future.done():
                continue
            part = rows[at : at + waiter.count]
            at += len(part)
            self._hold(part, delivery.lease)
            waiter.future.set_result(Handed(part, delivery.lease, delivery.attempts))
        if at < len(rows):
            self._release([row[0] for row in rows[at:]])

    def detached(self, error: BrokerError) -> None:
        """The queue was deleted, or the engine stops."""
        self._attachment = None
        self._reset()
        self._fail(error)

    # Within

    def _enqueue(self, waiter: Waiter) -> None:
        assert self._attachment is not None
        self._used = self._clock()
        self._waiters.append(waiter)
        self._wanted += waiter.count
        messages = max(0, self._wanted - self._credit)
        room = max(0, len(self._waiters) * max(RESPONSE_BYTES, self._hub.limits.max_body) - self._room)
        self._credit += messages
        self._room += room
        if messages or room:
            self._attachment.grant(messages, room)

    def _leave(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            self._wanted -= waiter.count

    def _hold(self, rows: Sequence[Row], lease: int) -> None:
        until = self._clock() + self.lease / 1000
        for row in rows:
            self._holds[row[0]] = Hold(lease, until)

    def _release(self, offsets: list[int]) -> None:
        """Not from within the engine's own call: what is released may be delivered in the same breath."""
        if not offsets:
            return
        if not self._surplus:
            asyncio.get_running_loop().call_soon(self._release_surplus)
        self._surplus += offsets

    def _release_surplus(self) -> None:
        offsets, self._surplus = self._surplus, []
        if self._attachment is not None and offsets:
            self._attachment.settle(Outcome.RELEASE, offsets)

    def _detach(self) -> None:
        attachment, self._attachment = self._attachment, None
        self._reset()
        if attachment is not None:
            attachment.detach()

    def _reset(self) -> None:
        self._holds.clear()
        self._surplus.clear()
        self._credit = self._room = 0

    def _fail(self, error: BrokerError) -> None:
        for waiter in self._waiters:
            if not waiter.future.done():
                waiter.future.set_exception(error)
        self._waiters.clear()
        self._wanted = 0


def _answered(future: asyncio.Future[Handed]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


class Receivers:
    """All receivers of the door, by queue."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._receivers: dict[str, Receiver] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        hub.watchers.append(self._refresh)

    def get(self, name: str) -> Receiver | None:
        """The receiver of a queue if there is one."""
        return self._receivers.get(name)

    def open(self, principal: Principal, name: str) -> Receiver:
        """The receiver of a queue, attached. Raises UNKNOWN_SUBSCRIPTION, WRONG_KIND, FORBIDDEN, SHUTTING_DOWN."""
        if self._closed:
            raise BrokerError(Code.SHUTTING_DOWN)
        loop = asyncio.get_running_loop()
        receiver = self._receivers.get(name) or Receiver(self._hub, name, loop.time)
        receiver.open(principal)
        self._receivers[name] = receiver
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_SECONDS, self._sweep)
        return receiver

    def holding(self) -> int:
        """How many messages workers have by receipts of this door."""
        return sum(receiver.holding for receiver in self._receivers.values())

    def close(self) -> None:
        """The door closes: who waits is told, what is leased becomes ready."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for receiver in self._receivers.values():
            receiver.close(BrokerError(Code.SHUTTING_DOWN))
        self._receivers.clear()

    def _refresh(self) -> None:
        for receiver in self._receivers.values():
            receiver.refresh()

    def _sweep(self) -> None:
        for name in [name for name, receiver in self._receivers.items() if not receiver.sweep()]:
            del self._receivers[name]
        self._timer = None
        if self._receivers:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
