"""The hub: the one way in and out, used by every protocol and connector.

Step 1 of the journey happens here: a unit of work is authorized, held to the topic's contract and handed to the
engine; readers are let in here. Every right is asked here, or in the part of it that changes the broker itself
(`administration`), and nowhere else. Floor 3.
"""

import asyncio
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from broker.administration import Administration
from broker.auth.grant import MAX_KEY, Resource, Verb, on_key, on_subscription, on_topic
from broker.auth.principal import BROKER, LOCAL, Principal, key_prefixes
from broker.core.errors import BrokerError, Code
from broker.core.message import (
    MAX_DELAY,
    Draft,
    Row,
    check_meta,
    made_id,
    pack_content_type,
    pack_id,
    pack_meta,
    utf8_size,
)
from broker.core.position import Start
from broker.core.subscription import Consumer
from broker.core.topic import check_filter, check_topic
from broker.engine.base import (
    Attachment,
    Page,
    Receipt,
    Scheduled,
    Set,
    Settle,
    TopicInfo,
    Unit,
)
from broker.engine.reader import Reader
from broker.listing import MOST, first_described

AUTH_KEYS = "auth/"
RESERVED_KEYS = (AUTH_KEYS, "webhook/", "drop/", "mqtt/", "mqtt_bridge/")
"""What the broker keeps under these, tokens, secrets and ledgers, no client may read or change."""
KEYS_AT_ONCE = 1_000
"""Keys that are looked at in one go."""
LAST = "\U0010ffff"
"""No character comes after it."""
MAX_FILTERS = 1_000
"""Topic filters of one reader; each costs a look at every grant. Doors that read in the broker's name bound theirs."""
PAGE_BYTES = 1 << 20
"""Of bodies in a page, unless its reader wants more; a single message may be larger."""


@dataclass(slots=True)
class Outgoing:
    """A message that somebody wants published. `options`: id, key, headers, content_type, priority, ttl (ms),
    delay (ms), due (unix ms)."""

    topic: str
    body: bytes
    options: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Published:
    """The receipt of one message: on disk. `offset` and `position` are None for a scheduled one, which has `due`, and
    for one of durability `memory`, which is in no log; that one has no `id` either, unless its publisher gave one."""

    id: str | None
    offset: int | None
    position: str | None
    duplicate: bool = False
    due: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Authorized and checked work for `commit`; `published` makes its receipt into one for each message."""

    unit: Unit
    published: Callable[[Receipt], list[Published]]


class Hub(Administration):
    """See the module, and Administration for its parameters."""

    # Step 1: publish

    def check_publish(self, principal: Principal, topic: object) -> str:
        """May this principal publish to this topic? The answer holds as long as it is in `principal.topics`. Raises
        BAD_TOPIC or FORBIDDEN."""
        if type(topic) is str and topic in principal.topics:
            return topic
        name = check_topic(topic)
        if name.startswith("$") and not name.startswith("$reply/"):
            raise BrokerError(Code.FORBIDDEN, f"{name!r}: topics that begin with $ are the broker's own")
        self.authorize(principal, Verb.PUBLISH, on_topic(name))
        principal.remember(name)
        return name

    def draft(self, principal: Principal, message: Outgoing) -> Draft | Scheduled:
        """Check one message and give it its stored form; a delayed one becomes Scheduled."""
        topic = self.check_publish(principal, message.topic)
        if type(message.body) is not bytes:
            raise BrokerError(Code.BAD_MESSAGE, "the body must be bytes")
        if len(message.body) > self.limits.max_body:
            raise self.limits.body_too_large(len(message.body))
        if not message.options:
            return (topic, None, message.body)
        return self.draft_with(topic, message.body, message.options)

    def draft_with(self, topic: str, body: bytes, options: Mapping[str, Any]) -> Draft | Scheduled:
        """The same for an authorized topic and a checked body, with options."""
        if len(options) == 1 and "id" in options:
            return (topic, pack_id(options["id"]), body)
        if len(options) == 1 and type(kind := options.get("content_type")) is str:
            return (topic, pack_content_type(kind), body)
        now = int(self.wall() * 1000)
        due = _due(options, now)
        if due is not None and "ttl" in options and type(options["ttl"]) is int:
            options = {**options, "ttl": options["ttl"] + due - now}
        meta = check_meta(options, now)
        draft = (topic, pack_meta(meta), body)
        return draft if due is None else Scheduled(meta.get("id") or str(uuid.uuid4()), due, draft)

    def commit(self, unit: Unit) -> None:
        """Hand a unit of authorized, checked work to the engine; it is answered through `unit.done`."""
        for settle in unit.settles:
            if type(settle.offset) is not int or not 0 <= settle.offset < 1 << 63:
                raise BrokerError(Code.BAD_REQUEST, f"{settle.offset!r} is no offset of a message")
        if unit.publishes or unit.schedules or unit.sets:
            self._commit_counted(unit)
        else:
            self.engine.commit(unit)

    def _commit_counted(self, unit: Unit) -> None:
        """What publishes takes its part of memory until it is answered, and counts against its principal's rate."""
        flow, principal, sender, weight, done = self.flow, unit.principal, unit.sender, unit.weight(), unit.done

        def answered(receipt: Receipt) -> None:
            flow.leave(principal, sender, weight)
            if done is not None:
                done(receipt)

        unit.done = answered
        flow.enter(principal, sender, weight)
        try:
            self.engine.commit(unit)
        except BrokerError:
            flow.leave(principal, sender, weight)
            unit.done = done
            raise
        flow.spend(principal, len(unit.publishes) + len(unit.schedules), unit.size)

    def relay(
        self, principal: Principal, drafts: Sequence[Draft], sender: Hashable, done: Callable[[Receipt], None]
    ) -> int:
        """Pass on authorized, checked messages that promise nothing (MQTT's QoS 0): at once to who listens now, and
        into the log only what somebody must find there later. Returns the weight of that: so much waits for the disk
        until `done`, which is not called for 0. Raises what `commit` raises."""
        engine = self.engine
        kept = [draft for draft in drafts if engine.keeps(draft[0])]
        if len(kept) < len(drafts):
            passing = [draft for draft in drafts if not engine.keeps(draft[0])] if kept else drafts
            engine.pass_by(passing)
            self.flow.spend(_counted(principal), len(passing), sum([len(draft[2]) for draft in passing]))
        if not kept:
            return 0
        unit = Unit(kept, done, sender, _counted(principal))
        unit.size = _size(unit)
        weight = unit.weight()
        self.commit(unit)
        return weight

    def check_room(self, principal: Principal, sender: Hashable, size: int) -> None:
        """May a publish of about so many bytes be taken now? Asked before its body is. Raises RATE_LIMITED,
        OVERLOADED."""
        self.flow.check(_counted(principal), sender, size)

    async def publish(
        self,
        principal: Principal,
        messages: Sequence[Outgoing],
        *,
        settles: Sequence[Settle] = (),
        sets: Sequence[Set] = (),
        sender: Hashable = None,
    ) -> list[Published]:
        """Publish all or nothing, with settles and key/value writes in the same transaction; returns after the
        commit. `sender` is the connection that asks, for fairness. Raises BrokerError. Not undone when the caller is
        cancelled: then the outcome is unknown to it."""
        prepared = self.prepare(principal, messages, settles=settles, sets=sets, sender=sender)
        return prepared.published(await self.committed(prepared.unit))

    def prepare_one(
        self, principal: Principal, message: Outgoing, sender: Hashable
    ) -> tuple[Unit, Callable[[Receipt], Published]]:
        """What `publish` does before the commit, for a message alone and at half of the cost; how its receipt is
        told."""
        draft = self.draft(principal, message)
        if isinstance(draft, Scheduled):
            prepared = self.prepare(principal, [message], sender=sender)
            return prepared.unit, lambda receipt: prepared.published(receipt)[0]
        name, size = _counted(principal), len(draft[2]) + len(draft[1] or b"")
        self.flow.check(name, sender, size)
        given = message.options.get("id") if message.options else None
        unit = Unit([draft], sender=sender, principal=name, size=size)
        return unit, lambda receipt: self._published(receipt, 0, given)

    def prepare(
        self,
        principal: Principal,
        messages: Sequence[Outgoing],
        *,
        settles: Sequence[Settle] = (),
        sets: Sequence[Set] = (),
        sender: Hashable = None,
    ) -> Prepared:
        """What `publish` does before the commit, for a caller that wants to be called back (`unit.done`)."""
        self._check_settles(principal, settles)
        unit = Unit(sender=sender or principal, principal=_counted(principal), settles=list(settles), sets=list(sets))
        places: list[Scheduled | None] = []
        ids: list[str | None] = []
        for message in messages:
            draft = self.draft(principal, message)
            ids.append((message.options or {}).get("id"))
            if isinstance(draft, Scheduled):
                unit.schedules.append(draft)
                places.append(draft)
            else:
                unit.publishes.append(draft)
                places.append(None)
        unit.size = _size(unit)
        self.check_room(principal, unit.sender, unit.size)
        return Prepared(unit, partial(self._all_published, ids, places))

    def _all_published(
        self, ids: Sequence[str | None], places: Sequence[Scheduled | None], receipt: Receipt
    ) -> list[Published]:
        index = 0
        published: list[Published] = []
        for given, place in zip(ids, places, strict=True):
            if place is not None:
                published.append(Published(place.id, None, None, due=place.due))
                continue
            published.append(self._published(receipt, index, given))
            index += 1
        return published

    def _published(self, receipt: Receipt, index: int, given: str | None) -> Published:
        offset, duplicate = receipt.place(index), index in receipt.duplicates
        if offset is None:
            return Published(given, None, None, duplicate)
        epoch = self.engine.epoch
        return Published(given or made_id(epoch, offset, receipt.at), offset, f"{epoch}.{offset}", duplicate)

    async def committed(self, unit: Unit) -> Receipt:
        """Commit and wait for the receipt; what was to be done with it is done first. Raises the receipt's error."""
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        first = unit.done

        def done(receipt: Receipt) -> None:
            if first is not None:
                first(receipt)
            if not future.done():
                future.set_result(receipt)

        unit.done = done
        unit.size = unit.size or _size(unit)
        self.commit(unit)
        receipt = await future
        if receipt.error is not None:
            raise receipt.error
        return receipt

    async def settle(
        self, principal: Principal, settles: Sequence[Settle], *, sender: Hashable = None
    ) -> Sequence[tuple[str, int]]:
        """Settle; returns after the commit the (subscription, offset) of those that came too late."""
        self._check_settles(principal, settles)
        unit = Unit(sender=sender or principal, principal=_counted(principal), settles=list(settles))
        receipt = await self.committed(unit)
        return receipt.lost

    def _check_settles(self, principal: Principal, settles: Sequence[Settle]) -> None:
        for name in {settle.subscription for settle in settles}:
            self.authorize(principal, Verb.CONSUME, on_subscription(name))

    # Steps 3 to 5: readers

    def attach(self, principal: Principal, name: str, consumer: Consumer, filters: Sequence[str] = ()) -> Attachment:
        """Become a consumer of a subscription; it starts with no credit. Raises UNKNOWN_SUBSCRIPTION, FORBIDDEN."""
        narrowed = _filters(principal, filters) if filters else []
        return self._reader(
            principal, [on_subscription(name)], consumer, lambda reader: self.engine.attach(name, reader, narrowed)
        )

    def follow(
        self,
        principal: Principal,
        filters: Sequence[str],
        start: Start,
        consumer: Consumer,
        *,
        passing: bool = False,
    ) -> Attachment:
        """Replay and go on live, keeping nothing. Starts with no credit. `passing`: see the engine."""
        checked = _filters(principal, filters)
        return self._reader(
            principal,
            map(on_topic, checked),
            consumer,
            lambda reader: self.engine.follow(checked, start, reader, passing=passing),
        )

    def tap(self, principal: Principal, filters: Sequence[str], consumer: Consumer) -> Attachment:
        """See messages pass; what exceeds the credit is skipped."""
        checked = _filters(principal, filters)
        return self._reader(
            principal, map(on_topic, checked), consumer, lambda reader: self.engine.tap(checked, reader)
        )

    def _reader(
        self,
        principal: Principal,
        resources: Iterable[Resource],
        consumer: Consumer,
        attach: Callable[[Consumer], Attachment],
    ) -> Attachment:
        """Let a reader in, and remember what allows it, so that it is ended when that goes."""
        needs = tuple((Verb.CONSUME, resource) for resource in resources)
        for verb, resource in needs:
            self.authorize(principal, verb, resource)
        if principal is LOCAL or principal is BROKER:  # their grants never change
            return attach(consumer)
        reader = Reader(consumer)
        reader.bind(attach(reader), self._holds.add(principal, needs, reader.end).release)
        return reader

    async def read(
        self, principal: Principal, filters: Sequence[str], start: Start, limit: int, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """Replay a piece of the log."""
        checked = _filters(principal, filters)
        for text in checked:
            self.authorize(principal, Verb.CONSUME, on_topic(text))
        async with self._pages:
            return await self.engine.read(checked, start, limit, max_bytes)

    async def peek(
        self, principal: Principal, name: str, limit: int, after: int = -1, max_bytes: int = PAGE_BYTES
    ) -> list[Row]:
        """The oldest outstanding messages of a queue above an offset. Raises UNKNOWN_SUBSCRIPTION, WRONG_KIND."""
        self.queue(principal, name, Verb.CONSUME)
        async with self._pages:
            return await self.engine.peek(name, limit, after, max_bytes)

    async def read_stream(self, principal: Principal, name: str, limit: int, max_bytes: int = PAGE_BYTES) -> Page:
        """The piece of the log that comes next for a named stream, behind its cursor, which stays. Raises
        UNKNOWN_SUBSCRIPTION, WRONG_KIND, FORBIDDEN."""
        info = self.stream(principal, name)
        start = Start("after", info.floor, self.engine.epoch)
        async with self._pages:
            return await self.engine.read(list(info.spec.topics), start, limit, max_bytes)

    async def topics(self, principal: Principal, after: str | None = None, limit: int = MOST) -> list[TopicInfo]:
        """The first `limit` topics above `after` with messages that it may know of, by name."""
        engine = self.engine
        return await first_described(
            engine.topic_names, engine.topics, limit, after, lambda name: self.sees(principal, on_topic(name))
        )

    # Retained messages

    async def delete_retained(self, principal: Principal, text: str) -> int:
        """Delete all of now that a filter matches; how many. Raises FORBIDDEN, and what committing does; then some may
        be gone."""
        with self.audited(principal, "mqtt.retained.delete", text) as entry:
            self.authorize(principal, Verb.MANAGE, on_topic(text))
            units = self.retained.deletions(text)
            for unit in units:
                await self.committed(unit)
            entry["count"] = count = sum([len(unit.sets) for unit in units])
        return count

    # Keys and values

    def check_key(self, principal: Principal, name: object, value: object = None) -> str:
        """May this principal write (or, with None, delete) this key? Raises BAD_REQUEST, FORBIDDEN."""
        checked = _key(name)
        if value is not None and (type(value) is not bytes or len(value) > self.limits.max_body):
            raise BrokerError(Code.BAD_REQUEST, f"a value is bytes, at most {self.limits.max_body}, or nil to delete")
        self.authorize(principal, Verb.MANAGE, on_key(checked))
        return checked

    async def get_key(self, principal: Principal, name: object) -> tuple[bytes, int] | None:
        """(value, revision), or None. Raises BAD_REQUEST, FORBIDDEN."""
        checked = _key(name)
        self.authorize(principal, Verb.CONSUME, on_key(checked))
        return await self.engine.get(checked)

    async def keys(self, principal: Principal, prefix: str, after: str | None = None, limit: int = MOST) -> list[str]:
        """The first `limit` keys of clients above `after` that begin so and that it may know of, sorted."""
        found: list[str] = []
        for part in key_prefixes(principal, prefix):
            at = after
            while len(found) < limit and (piece := await self.engine.keys(part, at, KEYS_AT_ONCE)):
                at = piece[-1]
                own = next((name for name in RESERVED_KEYS if at.startswith(name)), None)
                if own is not None:
                    at = own + LAST
                found += [
                    name for name in piece if not name.startswith(RESERVED_KEYS) and self.sees(principal, on_key(name))
                ]
        return found[:limit]


def _counted(principal: Principal) -> str | None:
    """The name under which a principal has its part; the broker's own connectors bound themselves."""
    return None if principal == BROKER else principal.name


def _filters(principal: Principal, filters: Sequence[str]) -> list[str]:
    if not filters:
        raise BrokerError(Code.BAD_FILTER, "name at least one topic filter")
    if len(filters) > MAX_FILTERS and principal is not BROKER:
        raise BrokerError(Code.BAD_FILTER, f"name at most {MAX_FILTERS} topic filters; # stands for all topics below")
    return [check_filter(text) for text in filters]


def _key(name: object) -> str:
    """Raises BAD_REQUEST, and FORBIDDEN for the broker's own."""
    if type(name) is not str or not 0 < utf8_size(name) <= MAX_KEY:
        raise BrokerError(Code.BAD_REQUEST, f"a key is a text of 1 to {MAX_KEY} bytes, valid UTF-8")
    if name.startswith(RESERVED_KEYS):
        raise BrokerError(Code.FORBIDDEN, f"keys that begin with {' or '.join(RESERVED_KEYS)} are the broker's own")
    return name


def _size(unit: Unit) -> int:
    drafts = [*unit.publishes, *(scheduled.draft for scheduled in unit.schedules)]
    return sum(len(d[2]) + len(d[1] or b"") for d in drafts) + sum(len(s.value or b"") for s in unit.sets)


def _due(options: Mapping[str, Any], now: int) -> int | None:
    delay, due = options.get("delay"), options.get("due")
    if delay is None and due is None:
        return None
    if type(due) is int and delay is None and 0 < due < MAX_DELAY:
        return due
    if type(delay) is not int or not 0 <= delay < MAX_DELAY or due is not None:
        raise BrokerError(Code.BAD_OPTION, "give either delay (milliseconds, 0 or more) or due (unix milliseconds)")
    return now + delay if delay else None
