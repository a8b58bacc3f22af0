"""The subscriptions of the running engine: made, changed, looked at, deleted, and asked on behalf of a commit.

What one of them does with messages stands in `handles` and `streams`. Floor 2.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from broker.core.errors import BrokerError, Code
from broker.core.message import Draft, Row, packed_meta, unpack_meta
from broker.core.queue import Queue
from broker.core.spec import spec_values
from broker.core.subscription import Kind, Outcome, Overflow, Spec
from broker.engine.base import Settle, SubscriptionInfo
from broker.engine.sqlite.blocked import Room
from broker.engine.sqlite.forming import Handle, InternalUnit, Tally
from broker.engine.sqlite.handles import QueueHandle, dismiss
from broker.engine.sqlite.removal import remove
from broker.engine.sqlite.streams import StreamHandle

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

MAX_REDRIVE = 500


class Catalog:
    """See the module. `capped`: queues at which publishers are refused or wait when they are full."""

    def __init__(self, engine: "SqliteEngine") -> None:
        self._engine = engine
        self.handles: dict[str, Handle] = {}
        self.capped: dict[str, QueueHandle] = {}
        self.next_number = 1
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._dead = asyncio.Lock()  # else two who redrive at once would both put the same letters back

    # Asked by a commit that is being formed

    def lacking(self, drafts: Sequence[Draft], tally: Tally) -> Room | None:
        """The room that these need in a queue that has none after what the batch brought it before; of several such
        queues, one that refuses. When there is room in all, they are added to `tally`."""
        brought: Tally = {}
        for topic, _, body in drafts:
            for sink in self._engine.routes.of(topic):
                if isinstance(sink, QueueHandle) and sink.spec.name in self.capped:
                    sums = brought.setdefault(sink, [0, 0])
                    sums[0] += 1
                    sums[1] += len(body)
        lacking: Room | None = None
        for handle, (messages, size) in brought.items():
            before = tally.get(handle, (0, 0))
            if handle.queue.full(messages + before[0], size + before[1]):
                if handle.spec.overflow is Overflow.REFUSE:
                    return Room(handle, messages, size)
                lacking = lacking or Room(handle, messages, size)
        if lacking is not None:
            return lacking
        for handle, (messages, size) in brought.items():
            sums = tally.setdefault(handle, [0, 0])
            sums[0] += messages
            sums[1] += size
        return None

    def holds(self, settle: Settle) -> bool:
        """Could this settle be applied now?"""
        handle = self.handles.get(settle.subscription)
        if isinstance(handle, StreamHandle):
            return settle.outcome is Outcome.ACK
        return handle is not None and handle.queue.holds(settle.offset, settle.lease)

    def settle(self, settle: Settle) -> bool:
        """Apply a unit's settle; False when it came too late."""
        handle = self.handles.get(settle.subscription)
        if handle is None:
            return False
        if isinstance(handle, StreamHandle):
            if settle.outcome is not Outcome.ACK:
                return False
            handle.advance(settle.offset, self._engine.log.end)
            self._engine.writer.changed.add(handle)
            return True
        lost = handle.queue.settle(
            None,
            settle.outcome,
            [settle.offset],
            wall=self._engine.wall_ms(),
            chance=self._engine.chance(),
            delay=settle.delay,
            error=settle.error,
            lease=settle.lease,
        )
        self._engine.writer.changed.add(handle)
        self._engine.alarms.touch(handle)
        return not lost

    # Looked up and looked at

    def handle(self, name: str) -> Handle:
        """Raises UNKNOWN_SUBSCRIPTION."""
        found = self.handles.get(name)
        if found is None:
            raise BrokerError(Code.UNKNOWN_SUBSCRIPTION, f"{name!r}")
        return found

    def queue(self, name: str) -> QueueHandle:
        """Raises UNKNOWN_SUBSCRIPTION, WRONG_KIND."""
        handle = self.handle(name)
        if not isinstance(handle, QueueHandle):
            raise BrokerError(Code.WRONG_KIND, f"{name} is a stream")
        return handle

    async def put(self, spec: Spec) -> bool:
        """Create or change; True when created."""
        async with self._alone(spec.name):
            existing = self.handles.get(spec.name)
            if existing is None:
                await self._create(spec)
                return True
            if existing.spec.kind is not spec.kind:
                raise BrokerError(Code.CONFLICT, f"{spec.name} is a {existing.spec.kind.value}")
            await self._change(existing, spec)
            return False

    def _alone(self, name: str) -> asyncio.Lock:
        """One change of a subscription after the other: creating it may have to read the log first."""
        return self._changing.setdefault(name, asyncio.Lock())

    async def _create(self, spec: Spec) -> None:
        position, _, since = self._engine.replay.resolve(spec.topics, spec.start)
        number = self.next_number
        self.next_number += 1
        end = self._engine.log.end
        floor = min(position, end)
        unit = InternalUnit()
        text = json.dumps(spec_values(spec))
        unit.statements.append(("INSERT INTO subscription (id, name, spec) VALUES (?,?,?)", (number, spec.name, text)))
        unit.statements += [_filter(number, f, floor) for f in (*spec.topics, *private(spec))]
        handle = self.adopt(number, spec, floor)
        try:
            if isinstance(handle, QueueHandle):
                await self._load_backlog(handle, floor, position, since, end)
                floor = handle.queue.floor  # what a start by time skipped stays skipped after a crash
            elif since:
                young = await self._engine.replay.offsets(spec.topics, position, since, end)
                floor = handle.floor = handle.persisted_floor = int(young[0]) - 1 if young else end
        except BaseException:
            self._drop(handle)
            raise
        unit.statements.append(("INSERT OR REPLACE INTO progress VALUES (?,?)", (number, floor)))
        # When the asker goes away meanwhile, the unit commits all the same and the subscription stays.
        await asyncio.shield(asyncio.create_task(self._enter(handle, unit)))

    async def _enter(self, handle: Handle, unit: InternalUnit) -> None:
        """The subscription is on disk; from now on it serves."""
        try:
            await self._engine.committed_unit(unit)
        except BrokerError:
            self._drop(handle)
            raise
        if isinstance(handle, QueueHandle):
            handle.loading = False
            handle.pump()

    async def _load_backlog(self, handle: QueueHandle, floor: int, position: int, since: int, end: int) -> None:
        queue = handle.queue
        queue.scanned = end
        handle.loading = True  # nobody is served before the backlog is known and the subscription on disk
        if floor >= end:
            return
        backlog = await self._engine.replay.offsets(queue.spec.topics, position, since, end)
        queue.restore(backlog)
        await self.restore_headers(queue, backlog)
        queue.restored({}, max(self._engine.log.end, queue.scanned), handed=False)

    def adopt(self, number: int, spec: Spec, floor: int) -> Handle:
        """Make the handle of a subscription and route to it."""
        handle: Handle
        if spec.kind is Kind.QUEUE:
            handle = QueueHandle(self._engine, number, Queue(spec, floor, self._engine.lease_base))
            self._engine.routes.add([*spec.topics, *private(spec)], handle)
        else:
            handle = StreamHandle(number, spec, floor)
        self.handles[spec.name] = handle
        self._engine.relay.forget()
        self._note_cap(handle)
        return handle

    def _note_cap(self, handle: Handle) -> None:
        spec = handle.spec
        self.capped.pop(spec.name, None)
        if (
            isinstance(handle, QueueHandle)
            and spec.overflow is not Overflow.DROP_OLDEST
            and (spec.max_messages or spec.max_bytes)
        ):
            self.capped[spec.name] = handle

    async def restore_headers(self, queue: Queue, offsets: Any) -> None:
        """Read what handing out needs to know of messages that are outstanding already."""
        await self._engine.replay.headers(offsets, queue.restore_header, everything=bool(queue.spec.max_bytes))

    async def _change(self, handle: Handle, spec: Spec) -> None:
        old = handle.spec
        end = self._engine.log.end
        unit = InternalUnit()
        text = json.dumps(spec_values(spec))
        unit.statements.append(("UPDATE subscription SET spec = ? WHERE id = ?", (text, handle.number)))
        for text in set(spec.topics) - set(old.topics):
            unit.statements.append(_filter(handle.number, text, end))
        for text in set(old.topics) - set(spec.topics):
            sql = "UPDATE filter SET until = ? WHERE subscription = ? AND filter = ? AND until IS NULL"
            unit.statements.append((sql, (end, handle.number, text)))
        if isinstance(handle, QueueHandle):
            self._respec(handle, spec)
        else:
            handle.spec = spec
            self._engine.relay.forget()
        self._note_cap(handle)
        await self._engine.committed_unit(unit)

    def _respec(self, handle: QueueHandle, spec: Spec) -> None:
        old = handle.spec
        if (old.ordered, old.fair, bool(old.max_bytes)) != (spec.ordered, spec.fair, bool(spec.max_bytes)):
            raise BrokerError(
                Code.CONFLICT,
                "ordered, fair and max_bytes are fixed at creation; delete the subscription to change them",
            )
        self._engine.routes.remove([*old.topics, *private(old)], handle)
        self._engine.routes.add([*spec.topics, *private(spec)], handle)
        handle.queue.spec = spec

    async def delete(self, name: str) -> None:
        """Forget it."""
        async with self._alone(name):
            await self._delete(self.handle(name))

    async def _delete(self, handle: Handle) -> None:
        self._drop(handle)
        unit = InternalUnit()
        for table, column in (
            ("subscription", "id"),
            ("filter", "subscription"),
            ("progress", "subscription"),
            ("settled", "subscription"),
            ("redelivery", "subscription"),
        ):
            unit.statements.append((f"DELETE FROM {table} WHERE {column} = ?", (handle.number,)))  # noqa: S608
        await self._engine.committed_unit(unit)

    def _drop(self, handle: Handle) -> None:
        gone = BrokerError(Code.UNKNOWN_SUBSCRIPTION, f"{handle.spec.name} was deleted")
        del self.handles[handle.spec.name]
        self._engine.relay.forget()
        self.capped.pop(handle.spec.name, None)
        self._engine.writer.changed.discard(handle)
        if isinstance(handle, QueueHandle):
            self._engine.alarms.forget(handle)
            self._engine.routes.remove([*handle.spec.topics, *private(handle.spec)], handle)
            handle.queue.paused = True
            for member in list(handle.queue.members):
                dismiss(member.consumer, gone)
            handle.queue.members.clear()
            return
        for attachment in list(handle.attachments):
            dismiss(attachment.reader.consumer, gone)
            attachment.detach()

    def infos(self) -> list[SubscriptionInfo]:
        """All, by name."""
        return [self.info(name) for name in sorted(self.handles)]

    def info(self, name: str) -> SubscriptionInfo:
        """One."""
        handle = self.handle(name)
        end = self._engine.log.end
        if isinstance(handle, StreamHandle):
            count = len(handle.attachments)
            return SubscriptionInfo(handle.spec, floor=handle.floor, lag=end - handle.floor, consumers=count)
        queue = handle.queue
        counters = queue.counters
        return SubscriptionInfo(
            handle.spec,
            paused=queue.paused,
            floor=queue.floor,
            lag=len(queue.outstanding),
            ready=queue.ready,
            leased=queue.leased,
            delayed=queue.delayed,
            blocked=queue.blocked,
            consumers=len(queue.members),
            oldest_at=self._engine.replay.about(int(queue.outstanding[0])) if queue.outstanding else None,
            dead_letters=self._dead_letters(name),
            acked=counters.acked,
            retried=counters.retried,
            dead=counters.dead,
            expired=counters.expired,
            dropped=counters.dropped,
            leases_expired=counters.leases_expired,
        )

    def _dead_letters(self, name: str) -> int:
        log = self._engine.log
        return log.total_of(log.numbers.get(f"$dead/{name}", 0)).messages

    async def pause(self, name: str, paused: bool) -> None:
        """Stop or resume handing out."""
        handle = self.queue(name)
        unit = InternalUnit()
        unit.statements.append(("UPDATE subscription SET paused = ? WHERE id = ?", (int(paused), handle.number)))
        handle.queue.paused = paused
        await self._engine.committed_unit(unit)
        if not paused:
            handle.pump()

    async def peek(self, name: str, limit: int, after: int, max_bytes: int) -> list[Row]:
        """The oldest outstanding messages."""
        offsets = list(islice(self.queue(name).queue.outstanding.iter_equal_or_larger(after + 1), limit))
        return (await self._engine.fetch_within(offsets, max_bytes))[0] if offsets else []

    async def purge(self, name: str) -> int:
        """Settle everything that is not leased."""
        return await self._settled(self.queue(name), Queue.purge)

    async def trim(self, name: str, max_bytes: int) -> int:
        """Drop the oldest that wait."""
        return await self._settled(self.queue(name), lambda queue: queue.trim(max_bytes))

    async def _settled(self, handle: QueueHandle, work: Callable[[Queue], int]) -> int:
        count = work(handle.queue)
        self._engine.changed(handle)
        await self._engine.committed_unit(InternalUnit())
        return count

    async def redrive(self, name: str, limit: int) -> int:
        """Move dead letters back, oldest first, in pieces of one transaction each; returns how many."""
        return await self._take_dead(name, limit, _back_into(name))

    async def purge_dead(self, name: str, limit: int) -> int:
        """Delete dead letters, in the same way."""
        return await self._take_dead(name, limit, lambda _unit, _rows: None)

    async def _take_dead(self, name: str, limit: int, put: Callable[[InternalUnit, list[Row]], None]) -> int:
        self.queue(name)
        topic, end = f"$dead/{name}", self._engine.log.end  # what dies again meanwhile is for the next time
        taken = 0
        while taken < limit:
            async with self._dead:
                page = await self._engine.replay.read([topic], 0, min(limit - taken, MAX_REDRIVE))
                rows = [row for row in page.rows if row[0] <= end]
                if not rows:
                    break
                unit = InternalUnit()
                put(unit, rows)
                await remove(self._engine, {self._engine.log.numbers[topic]: [row[0] for row in rows]}, unit)
                taken += len(rows)
        return taken


def _back_into(name: str) -> Callable[[InternalUnit, list[Row]], None]:
    def put(unit: InternalUnit, rows: list[Row]) -> None:
        for _, _, _, packed, body in rows:
            meta = unpack_meta(packed)
            meta.pop("source", None)
            unit.publishes.append((f"$redrive/{name}", packed_meta(meta), body))
            unit.size += len(body)

    return put


def private(spec: Spec) -> tuple[str, ...]:
    """The topic that carries redriven messages to this queue alone."""
    return (f"$redrive/{spec.name}",) if spec.kind is Kind.QUEUE else ()


def _filter(number: int, text: str, since: int) -> tuple[str, tuple[Any, ...]]:
    return ("INSERT OR REPLACE INTO filter VALUES (?,?,?,NULL)", (number, text, since))
