"""The part of the hub that changes the broker itself: subscriptions, queues, what is scheduled; and the rights that it
and the rest of the hub ask for. Whatever is done here, or refused, is in the audit trail. Floor 3.
"""

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from broker.auth.grant import Resource, Verb, on_subscription, on_topic
from broker.auth.hold import Hold, Holds
from broker.auth.principal import Principal, authorize, is_admin
from broker.core.errors import BrokerError, Code
from broker.core.message import pack_meta
from broker.core.spec import revealed, shown_values
from broker.core.subscription import Kind, Spec
from broker.engine.base import Engine, SubscriptionInfo, Unit, Waiting
from broker.flow import Flow
from broker.limits import Limits
from broker.listing import MOST, first_described
from broker.observe.audit import TOPIC as AUDIT
from broker.observe.audit import Trail
from broker.observe.limited import Limited
from broker.retained import RetainedMessages

MAX_SCHEDULED = 10_000
TOPICS_AT_ONCE = 1_000
OWN_QUEUES = "mqtt/"
"""Subscriptions whose names begin so, which no other can have, are the MQTT door's: its sessions and groups."""
PAGES_AT_ONCE = 4
"""Pages of messages read at the same time; who asks for another one waits, lest pages pile up in memory."""


class Administration:
    """See the module. `wall` gives unix seconds and `monotonic` seconds; parameters, so that tests need not sleep.
    `audit`: keep a trail of what is done to the broker itself."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        audit: bool = False,
    ) -> None:
        self.engine = engine
        self.limits = limits
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)
        self.flow = Flow(limits, Limited(monotonic), monotonic)
        self.wall = wall
        self.retained = RetainedMessages(engine, limits, self.flow.limited, wall)
        self.checks: list[Callable[[Spec], None]] = []
        """Asked before a subscription is made or changed; a connector refuses here what it could not serve."""
        self.watchers: list[Callable[[], None]] = []
        """Told after a subscription was made, changed or deleted."""
        self._holds = Holds()
        self._trail = Trail(self._write_audit, wall, monotonic) if audit else None

    # Rights

    def authorize(self, principal: Principal, verb: Verb, resource: Resource) -> None:
        """Raises BrokerError(FORBIDDEN) naming verb and resource."""
        if not authorize(principal, verb, resource):
            raise _refusal(principal, verb, resource)

    def authorize_admin(self, principal: Principal) -> None:
        """May it say who may do what? Raises FORBIDDEN."""
        if not is_admin(principal):
            raise BrokerError(Code.FORBIDDEN, f"{principal.name} is no admin")

    def sees(self, principal: Principal, resource: Resource) -> bool:
        """May it know that this is there: is there anything that it may do with it?"""
        return any(authorize(principal, verb, resource) for verb in (Verb.CONSUME, Verb.MANAGE, Verb.PUBLISH))

    def hold(self, principal: Principal, verb: Verb, resource: Resource, end: Callable[[BrokerError], None]) -> Hold:
        """The same as `authorize`, for something that lasts: `end` is called when the right goes; `release` it when it
        ends by itself. Raises FORBIDDEN."""
        self.authorize(principal, verb, resource)
        return self._holds.add(principal, ((verb, resource),), end)

    def regranted(self, principal: Principal) -> None:
        """The grants of this principal have changed: its readers that are no longer covered are ended."""
        self._holds.recheck(principal, _refusal)

    # The audit trail

    @contextmanager
    def audited(self, principal: Principal, verb: str, resource: str) -> Iterator[dict[str, object]]:
        """Write down what is done within `with`, and how it ended. What is put into the map that it gives goes into the
        entry; `outcome` there is another word for `done`."""
        entry: dict[str, object] = {}
        try:
            yield entry
        except BaseException as error:  # cancelled: done or not, nobody knows
            code = error.code.value if isinstance(error, BrokerError) else "unknown"
            self.record(principal, verb, resource, "denied" if code == Code.FORBIDDEN.value else code, good=False)
            raise
        self.record(principal, verb, resource, str(entry.pop("outcome", "done")), entry)

    def record(
        self,
        principal: Principal,
        verb: str,
        resource: str,
        outcome: str = "done",
        more: Mapping[str, object] | None = None,
        *,
        good: bool = True,
    ) -> None:
        """The same for what has happened already."""
        if self._trail is not None:
            self._trail.record(principal.name, verb, resource, outcome, more or {}, good=good)

    def _write_audit(self, body: bytes, done: Callable[[BrokerError | None], None]) -> None:
        """After the deed and not with it: what the engine does is no unit that more could be added to."""
        draft = (AUDIT, pack_meta({"content_type": "application/json"}), body)
        unit = Unit(sender=self, publishes=[draft], size=len(body))
        unit.done = lambda receipt: done(receipt.error)
        self.engine.commit(unit)

    # Subscriptions

    async def put_subscription(self, principal: Principal, spec: Spec) -> bool:
        """Create or change a subscription; True when created. A secret that is hidden as it was shown stays as it is.
        Raises what the engine and the connectors refuse."""
        with self.audited(principal, "subscription.put", spec.name) as entry:
            self.authorize(principal, Verb.MANAGE, on_subscription(spec.name))
            for text in spec.topics:
                self.authorize(principal, Verb.CONSUME, on_topic(text))
            spec = self._revealed(spec)
            self._check_subscriptions(spec.name)
            for check in self.checks:
                check(spec)
            created = await self.engine.put_subscription(spec)
            entry |= {"outcome": "created" if created else "changed", "settings": shown_values(spec)}
        self._tell_watchers()
        return created

    async def put_own(self, spec: Spec) -> None:
        """Create or change a queue of a door's own, whose reader's rights on its topics the door holds. Raises
        RATE_LIMITED for one too many, and what the engine refuses."""
        self._check_subscriptions(spec.name)
        await self.engine.put_subscription(spec)

    def _check_subscriptions(self, name: str) -> None:
        """Raises RATE_LIMITED for one too many."""
        limit = self.limits.max_subscriptions
        if self.engine.stats().subscriptions < limit:
            return
        try:
            self.engine.subscription(name)
        except BrokerError:
            detail = f"there are {limit} subscriptions; delete some or raise limits.max_subscriptions"
            self.flow.limited.hit("max_subscriptions", "", detail)
            raise BrokerError(Code.RATE_LIMITED, detail) from None

    def _revealed(self, spec: Spec) -> Spec:
        if not spec.sink:
            return spec
        try:
            before = self.engine.subscription(spec.name).spec
        except BrokerError:
            before = None
        return revealed(spec, before)

    async def delete_subscription(self, principal: Principal, name: str) -> None:
        """Raises UNKNOWN_SUBSCRIPTION, and FORBIDDEN for a queue of the MQTT door."""
        with self.audited(principal, "subscription.delete", name):
            self.authorize(principal, Verb.MANAGE, on_subscription(name))
            if name.startswith(OWN_QUEUES):  # its client could not be served any more
                raise BrokerError(
                    Code.FORBIDDEN, f"{name!r} is the MQTT door's own, and ends with its client's session"
                )
            await self.engine.delete_subscription(name)
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        for watcher in self.watchers:
            watcher()

    async def subscriptions(
        self, principal: Principal, after: str | None = None, limit: int = MOST
    ) -> list[SubscriptionInfo]:
        """The first `limit` above `after` that it may know of, by name."""
        return await first_described(
            lambda: [spec.name for spec in self.engine.specs()],
            self._described,
            limit,
            after,
            lambda name: self.sees(principal, on_subscription(name)),
        )

    def _described(self, names: Sequence[str]) -> list[SubscriptionInfo]:
        infos: list[SubscriptionInfo] = []
        for name in names:
            with suppress(BrokerError):  # it has just been deleted
                infos.append(self.engine.subscription(name))
        return infos

    def subscription(self, principal: Principal, name: str) -> SubscriptionInfo:
        """To whom may consume or manage it. Raises UNKNOWN_SUBSCRIPTION, FORBIDDEN."""
        if not authorize(principal, Verb.MANAGE, on_subscription(name)):
            self.authorize(principal, Verb.CONSUME, on_subscription(name))
        return self.engine.subscription(name)

    def queue(self, principal: Principal, name: str, verb: Verb) -> SubscriptionInfo:
        """The same for a caller that needs a queue and this right. Raises WRONG_KIND too."""
        self.authorize(principal, verb, on_subscription(name))
        info = self.engine.subscription(name)
        if info.spec.kind is not Kind.QUEUE:
            raise BrokerError(Code.WRONG_KIND, f"{name} is a stream")
        return info

    def stream(self, principal: Principal, name: str) -> SubscriptionInfo:
        """The same for a reader that needs a named stream."""
        self.authorize(principal, Verb.CONSUME, on_subscription(name))
        info = self.engine.subscription(name)
        if info.spec.kind is not Kind.STREAM:
            raise BrokerError(Code.WRONG_KIND, f"{name} is a queue")
        return info

    async def pause(self, principal: Principal, name: str, *, paused: bool) -> None:
        """Stop or go on handing out. This and the three below raise UNKNOWN_SUBSCRIPTION, WRONG_KIND, FORBIDDEN."""
        with self.audited(principal, "queue.pause" if paused else "queue.resume", name):
            self.queue(principal, name, Verb.MANAGE)
            await self.engine.pause(name, paused)

    async def purge(self, principal: Principal, name: str) -> int:
        """Settle everything outstanding that is not leased; how many."""
        return await self._counted_work(principal, "queue.purge", name, self.engine.purge)

    async def redrive(self, principal: Principal, name: str, limit: int) -> int:
        """Put up to `limit` dead letters back, oldest first; how many."""
        return await self._counted_work(principal, "queue.redrive", name, partial(self.engine.redrive, limit=limit))

    async def purge_dead(self, principal: Principal, name: str, limit: int) -> int:
        """Delete up to `limit` dead letters for good, oldest first; how many."""
        return await self._counted_work(
            principal, "queue.purge_dead", name, partial(self.engine.purge_dead, limit=limit)
        )

    async def _counted_work(
        self, principal: Principal, verb: str, name: str, work: Callable[[str], Awaitable[int]]
    ) -> int:
        with self.audited(principal, verb, name) as entry:
            self.queue(principal, name, Verb.MANAGE)
            count = await work(name)
            entry["count"] = count
        return count

    # Scheduled messages

    async def scheduled(self, principal: Principal, limit: int) -> list[Waiting]:
        """The scheduled messages that it may manage, soonest first."""
        if is_admin(principal):
            return await self.engine.scheduled(limit)
        if not any(grant.verb is Verb.MANAGE for grant in principal.grants):
            return []
        waiting = await self.engine.scheduled(MAX_SCHEDULED)
        mine: dict[str, bool] = {}
        for count, topic in enumerate({item.topic for item in waiting}, 1):
            mine[topic] = authorize(principal, Verb.MANAGE, on_topic(topic))
            if count % TOPICS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return [item for item in waiting if mine[item.topic]][:limit]

    async def cancel(self, principal: Principal, schedule_id: str) -> bool:
        """Cancel a scheduled message; False when none of that id waits that it may manage."""
        with self.audited(principal, "schedule.cancel", schedule_id) as entry:
            found = await self.engine.cancel(
                schedule_id, lambda name: authorize(principal, Verb.MANAGE, on_topic(name))
            )
            entry["outcome"] = "done" if found else "not_found"
        return found


def _refusal(principal: Principal, verb: Verb, resource: Resource) -> BrokerError:
    return BrokerError(
        Code.FORBIDDEN,
        f"{principal.name} may not {verb.value} {resource}; an admin allows it by:"
        f" postroom grant add {principal.name} {verb.value} {shlex.quote(str(resource))}",
    )
