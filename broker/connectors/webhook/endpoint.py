"""One webhook at work: the consumer of a subscription that posts what it is handed and settles by the answers.

It decides how many requests are under way and when to pause: an endpoint that fails again and again is soon asked by
one request at a time, one that sends Retry-After by none until then. When and how often a message is tried again is the
subscription's policy. A task per request under way is bounded by the credit granted. Floor 4.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from broker.auth.principal import BROKER
from broker.connectors.webhook.answer import Answer
from broker.connectors.webhook.options import Target
from broker.connectors.webhook.poster import Poster
from broker.connectors.webhook.request import Request
from broker.core.errors import BrokerError
from broker.core.message import Message, Row
from broker.core.subscription import Delivery, Outcome, Spec
from broker.engine.base import Attachment
from broker.hub import Hub

log = logging.getLogger(__name__)

_BYTE_WINDOW = 2 << 20
"""Bytes of bodies in hand; a larger message comes alone."""

_LEASE_MARGIN = 10_000
"""Milliseconds that a lease outlasts the request's deadline: the answer's body and the commit of the settle."""

_SPREAD = 0.1
"""Share by which a Retry-After is stretched at random, so that not all messages come back in one moment."""


class Slots:
    """Requests under way, all endpoints together."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    def take(self) -> bool:
        """False when none is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def give(self) -> None:
        """The request is over."""
        self._free += 1


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all endpoints share."""

    hub: Hub
    poster: Poster
    slots: Slots
    monotonic: Callable[[], float]
    chance: Callable[[], float]


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """A webhook as operators see it. `state`: `ok`, `failing`, `waiting` (a pause the endpoint asked for) or `broken`
    (its settings don't work; `error` says why). `failures` counts those in a row."""

    subscription: str
    host: str
    state: str
    in_flight: int = 0
    delivered: int = 0
    failed: int = 0
    failures: int = 0
    error: str = ""


class Endpoint:
    """See the module. Made attached: raises what `hub.attach` raises."""

    def __init__(self, around: Surroundings, spec: Spec, target: Target, secrets: tuple[bytes, ...]) -> None:
        self.spec = spec
        self.target = target
        self.detached_by: BrokerError | None = None
        self._secrets = secrets
        self._around = around
        self._tasks: set[asyncio.Task[None]] = set()
        self._credit = 0  # messages granted and not yet settled
        self._quiet_until = 0.0  # monotonic seconds
        self._closing = False
        self._delivered = self._failed = self._failures = 0
        self._error = ""
        self._attachment: Attachment = around.hub.attach(BROKER, spec.name, self)
        self._attachment.grant(0, _BYTE_WINDOW)
        self._top_up()

    def configure(self, spec: Spec, target: Target, secrets: tuple[bytes, ...]) -> None:
        """The owner changed the settings; requests under way end by the old ones."""
        if target.host != self.target.host:
            self._failures, self._quiet_until = 0, 0.0
        self.spec, self.target, self._secrets = spec, target, secrets
        self._top_up()

    # The engine's side

    def deliver(self, delivery: Delivery) -> None:
        """One task per message; their number is bounded by the credit."""
        loop = asyncio.get_running_loop()
        for row in delivery.rows:
            attempts, _ = delivery.attempts.get(row[0], (0, 0))
            task = loop.create_task(self._carry(row, attempts + 1), name=f"webhook {self.spec.name} {row[0]}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def detached(self, error: BrokerError) -> None:
        """The engine let go; what is under way ends by itself, its outcome is lost."""
        self.detached_by = error

    # The endpoint's side

    @property
    def _waiting(self) -> bool:
        return self._around.monotonic() < self._quiet_until

    async def _carry(self, row: Row, attempt: int) -> None:
        slots = self._around.slots
        if self._closing or self._waiting or not slots.take():
            self._settle(Outcome.RELEASE, row)
            return
        try:
            answer = await self._post(row, attempt)
            outcome = await self._judge(answer)
            self._settle(outcome, row, self._delay(answer, attempt), answer.error or None)
        finally:
            slots.give()
            if not self._closing:
                self._top_up()

    async def _post(self, row: Row, attempt: int) -> Answer:
        deadline = self.target.timeout + _LEASE_MARGIN
        if self.spec.lease < deadline:
            self._attachment.extend([row[0]], deadline)
        message = Message.of(row, self._around.hub.engine.epoch)
        try:
            return await self._around.poster.post(self.target, self._secrets, Request(message, self.spec.name, attempt))
        except Exception:
            log.exception("webhook: a fault of the broker", extra={"subscription": self.spec.name, "offset": row[0]})
            return Answer("a fault of the broker; its log has the details")

    async def _judge(self, answer: Answer) -> Outcome:
        """Count the answer; what becomes of the message."""
        if not answer.error:
            self._succeeded()
            return Outcome.ACK
        self._failed += 1
        self._failures += 1
        self._error = answer.error
        if answer.gone and await self._pause():
            return Outcome.RELEASE
        if self._failures == 1:
            log.warning("webhook fails", extra=self._fields(error=answer.error, status=answer.status))
        if answer.retry_after:
            self._quiet_until = max(self._quiet_until, self._around.monotonic() + answer.retry_after / 1000)
        return Outcome.RETRY

    def _succeeded(self) -> None:
        self._delivered += 1
        if self._failures:
            log.info("webhook works again", extra=self._fields(failures=self._failures))
        self._failures, self._error = 0, ""

    async def _pause(self) -> bool:
        """410: nothing more is sent until somebody resumes the subscription; its messages stay."""
        engine = self._around.hub.engine
        try:
            paused = engine.subscription(self.spec.name).paused
            await self._around.hub.pause(BROKER, self.spec.name, paused=True)
        except BrokerError as error:
            log.warning("webhook is gone but cannot be paused", extra=self._fields(error=error.text))
            return False
        if not paused:
            mend = "set a new url or delete the subscription, then resume it"
            log.warning("webhook is gone (410); the subscription is paused", extra=self._fields(mend=mend))
        return True

    def _delay(self, answer: Answer, attempt: int) -> int | None:
        """The later of what the policy and what the endpoint says; None leaves it to the policy."""
        if not answer.retry_after:
            return None
        chance = self._around.chance()
        asked = int(answer.retry_after * (1 + _SPREAD * chance))
        return max(asked, self.spec.retry.delay(attempt, chance) or 0)

    def _settle(self, outcome: Outcome, row: Row, delay: int | None = None, error: str | None = None) -> None:
        self._credit -= 1
        if self.detached_by is not None:
            return
        try:
            self._attachment.settle(outcome, [row[0]], delay, error)
            self._attachment.grant(0, len(row[4]))
        except BrokerError as refusal:
            # The lease runs out or the engine restarts; the message comes again.
            log.warning("webhook: a settle was refused", extra=self._fields(error=refusal.text))

    def _top_up(self) -> None:
        if self._closing or self._waiting or self.detached_by is not None:
            return
        # Each failure in a row halves what may be under way; one success makes it whole.
        window = max(1, self.target.max_in_flight >> min(self._failures, 10))
        if window > self._credit:
            more, self._credit = window - self._credit, window
            self._attachment.grant(more, 0)

    # The sender's side

    def tick(self) -> None:
        """Called each second or so: end a pause that is over, ask again for slots."""
        self._top_up()

    async def close(self, grace: float = 0) -> None:
        """Take no more, give requests under way `grace` seconds, then let go: what is unsettled is ready again."""
        self._closing = True
        if self._tasks and grace > 0:
            await asyncio.wait(self._tasks, timeout=grace)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.detached_by is None:
            self._attachment.detach()

    def status(self) -> EndpointStatus:
        """How it fares."""
        state = "waiting" if self._waiting else "failing" if self._failures else "ok"
        return EndpointStatus(
            subscription=self.spec.name,
            host=self.target.host,
            state=state,
            in_flight=len(self._tasks),
            delivered=self._delivered,
            failed=self._failed,
            failures=self._failures,
            error=self._error,
        )

    def _fields(self, **fields: object) -> dict[str, object]:
        return {"subscription": self.spec.name, "host": self.target.host, **fields}
