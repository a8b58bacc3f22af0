"""The queue machine against a model that keeps each message as an object and looks at all of them for every question.

Whatever publishers, workers, time and crashes do: each message is in exactly one state, goes to one worker at a time in
the promised order, none is forgotten, and what a commit hands over is enough to go on from after a crash.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pyroaring import BitMap64

from broker.core.errors import BrokerError
from broker.core.lease import Handout, Member
from broker.core.message import Meta, Row, pack_meta, unpack_meta
from broker.core.offsets import page_of
from broker.core.queue import Queue
from broker.core.record import Record
from broker.core.retry import RetryPolicy
from broker.core.subscription import Delivery, Kind, Outcome, Overflow, Spec

LEASE = 1_000
ROOM = 1 << 40
FOR_EVER = 1 << 50
RETRY = RetryPolicy(initial=100, factor=2.0, jitter=0.0, max_attempts=3)
FIRST = 65_536 - 12
"""Of the offsets: the end of a page, so that few messages reach over two."""


@dataclass
class Known:
    """One message as the model knows it. `record`: it failed before, or was in the hands of who went; either lets a
    late settle of it count."""

    offset: int
    key: str | None
    priority: int
    expires_at: int | None
    size: int
    state: str = "waiting"
    holder: Member | None = None
    lease: int = 0
    deadline: float = 0.0
    started: bool = False
    due: int = 0
    attempts: int = 0
    deliveries: int = 0
    record: bool = False
    handed: bool = False
    astray: bool = False  # settled by somebody while it waited behind its key's head, which order says nothing about

    @property
    def unheld(self) -> bool:
        """Waits for its turn, its key or its retry."""
        return self.state in ("waiting", "delayed")

    @property
    def late(self) -> bool:
        """Was it in somebody's hands, who did not give it back?"""
        return self.record or self.handed

    def free(self, state: str = "waiting") -> None:
        """Nobody holds it any more."""
        self.state, self.holder, self.started, self.due = state, None, False, 0


class Silent:
    """A consumer; the machine only keeps it."""

    def deliver(self, delivery: Delivery) -> None: ...

    def detached(self, error: BrokerError) -> None: ...


@dataclass
class Disk:
    """What was committed."""

    floor: int
    pages: dict[int, BitMap64] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)  # by the model
    failed: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # likewise: attempts, deliveries, due


class QueueMachine(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        ordered=st.booleans(),
        fair=st.booleans(),
        single_active=st.booleans(),
        cap=st.sampled_from([None, None, 6]),
        room=st.sampled_from([None, None, 30]),
        grants=st.lists(st.integers(1, 20), max_size=2),
    )
    def begin(
        self, ordered: bool, fair: bool, single_active: bool, cap: int | None, room: int | None, grants: list[int]
    ) -> None:
        self.spec = Spec(
            "q",
            Kind.QUEUE,
            ("#",),
            lease=LEASE,
            retry=RETRY,
            max_deliveries=2,
            ordered=ordered,
            fair=fair,
            single_active=single_active,
            max_messages=cap,
            max_bytes=room,
            overflow=Overflow.DROP_OLDEST,
        )
        self.now, self.wall = 1_000.0, 1_795_424_400_000
        self.log: dict[int, Row] = {}
        self.end = FIRST
        self.known: dict[int, Known] = {}
        self.settled: set[int] = set()
        self.told: set[int] = set()  # offsets whose expiry came
        self.disk = Disk(self.end)
        self.queue = Queue(self.spec, self.end)
        self.last_lease = 0
        for credit in grants:
            self.join(credit)

    # Publishers

    @rule(
        metas=st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "key": st.sampled_from(["k", "l", "m"]),
                    "priority": st.sampled_from([1, 9]),
                    "expires_in": st.sampled_from([700, 5_000]),
                    "body": st.sampled_from([b"", b"a longer body"]),
                },
            ),
            min_size=1,
            max_size=5,
        ),
        gap=st.integers(0, 3),
        hold=st.booleans(),
    )
    def publish(self, metas: list[dict[str, Any]], gap: int, hold: bool) -> None:
        rows: list[Row] = []
        for options in metas:
            self.end += 1 + gap
            meta: Meta = {name: options[name] for name in ("key", "priority") if name in options}  # type: ignore[assignment]
            if "expires_in" in options:
                meta["expires_at"] = self.wall + options["expires_in"]
            rows.append((self.end, "t", self.wall, pack_meta(meta), options.get("body", b"body")))
            self.known[self.end] = self.remembered(rows[-1])
        self.log.update({row[0]: row for row in rows})
        before = self.queue.counters.dropped
        handouts = self.queue.publish(rows, self.now, hold=hold)
        dropped = self.surplus()
        assert self.queue.counters.dropped - before == len(dropped)
        self.settle_all(dropped)
        assert not (hold and handouts)
        self.see(handouts)

    def surplus(self) -> list[Known]:
        """The oldest that nobody holds, until the caps are kept."""
        most, room = self.spec.max_messages or math.inf, self.spec.max_bytes or math.inf
        count, size = len(self.known), sum(known.size for known in self.known.values())
        dropped: list[Known] = []
        for known in sorted(self.known.values(), key=lambda known: known.offset):
            if count <= most and size <= room:
                break
            if known.unheld:
                dropped.append(known)
                count, size = count - 1, size - known.size
        return dropped

    # Workers

    @rule(messages=st.integers(0, 10))
    def join(self, messages: int) -> None:
        if len(self.queue.members) < 3:
            self.queue.grant(self.queue.join(Silent()), messages, ROOM)

    @precondition(lambda self: self.queue.members)
    @rule(data=st.data(), messages=st.integers(1, 6))
    def grant(self, data: st.DataObject, messages: int) -> None:
        self.queue.grant(self.some_member(data), messages, 0)

    @rule(limit=st.integers(1, 3))
    def pick_few(self, limit: int) -> None:
        handouts = self.queue.pick(self.now, limit)
        assert all(len(handout.offsets) <= limit for handout in handouts)
        self.see(handouts)

    @rule()
    def pick_all(self) -> None:
        """Whoever has credit is served until nothing is left that may be handed out."""
        while handouts := self.queue.pick(self.now):
            self.see(handouts)
        if self.queue.hungry:
            assert not [k for k in self.in_state("waiting") if not self.ahead_of(k)]

    @precondition(lambda self: self.queue.members)
    @rule(data=st.data())
    def unpick(self, data: st.DataObject) -> None:
        """As the engine does with what is too large for the room that was granted."""
        member = self.some_member(data)
        unseen = [k.offset for k in self.in_state("leased") if k.holder is member and not k.started]
        offsets = data.draw(st.lists(st.sampled_from(unseen), unique=True)) if unseen else []
        credit = member.credit
        self.queue.unpick(member, offsets)
        assert member.credit == credit + len(offsets)
        for offset in offsets:
            self.known[offset].free()

    @precondition(lambda self: self.queue.members)
    @rule(data=st.data())
    def started(self, data: st.DataObject) -> None:
        member = self.some_member(data)
        offsets = self.some_offsets(data)
        self.queue.started(member, offsets)
        for offset in offsets:
            if offset in self.known and self.known[offset].holder is member:
                self.known[offset].started = True

    @precondition(lambda self: self.queue.members)
    @rule(data=st.data(), duration=st.sampled_from([0, 300, 3_000]))
    def extend(self, data: st.DataObject, duration: int) -> None:
        member = self.some_member(data)
        offsets = self.some_offsets(data)
        lost = self.queue.extend(member, offsets, duration, self.now)
        mine = [o for o in offsets if o in self.known and self.known[o].holder is member]
        assert sorted([*mine, *lost]) == sorted(offsets)
        for offset in mine:
            self.known[offset].deadline = self.now + duration / 1000

    @precondition(lambda self: self.queue.members)
    @rule(data=st.data(), lost=st.booleans())
    def leave(self, data: st.DataObject, lost: bool) -> None:
        member = self.some_member(data)
        self.queue.leave(member, lost=lost, wall=self.wall)
        for known in self.in_state("leased"):
            if known.holder is member:
                killed, known.handed = False, True
                if lost and known.started:
                    known.record = True
                    known.deliveries += 1
                    killed = known.deliveries >= self.spec.max_deliveries
                known.free("dying" if killed else "waiting")

    # Settles

    @precondition(lambda self: self.queue.members)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        """By who holds it, or too late: it counts if somebody held it and nobody does."""
        member = self.some_member(data)
        offsets = self.some_offsets(data)
        taken = [o for o in offsets if o in self.known and self.is_open(self.known[o], member)]
        assert sorted(self.queue.ack(member, offsets)) == sorted(set(offsets).difference(taken))
        self.settle_all([self.known[o] for o in taken])

    @precondition(lambda self: self.queue.members)
    @rule(
        data=st.data(),
        outcome=st.sampled_from([Outcome.RETRY, Outcome.REJECT, Outcome.RELEASE]),
        delay=st.sampled_from([None, 0, 250]),
    )
    def settle(self, data: st.DataObject, outcome: Outcome, delay: int | None) -> None:
        member = self.some_member(data)
        offsets = self.some_offsets(data)
        lost = self.queue.settle(member, outcome, offsets, wall=self.wall, chance=0.5, delay=delay)
        for offset in offsets:
            known = self.known.get(offset)
            taken = known is not None and self.is_open(known, member)
            assert (offset in lost) is not taken
            if known is not None and taken:
                self.apply(known, outcome, delay)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)), right=st.booleans())
    def settle_by_lease(self, data: st.DataObject, outcome: Outcome, right: bool) -> None:
        """As HTTP does, whose workers are no members: they quote the number of the lease."""
        known = self.known[data.draw(st.sampled_from(sorted(self.known)))]
        number = known.lease if right and known.lease else known.lease + 1_000_000
        taken = known.state != "dying" and (known.late if known.holder is None else number == known.lease)
        assert self.queue.holds(known.offset, number) is taken
        wall, chance = self.wall, 0.5
        lost = self.queue.settle(None, outcome, [known.offset], wall=wall, chance=chance, lease=number)
        assert list(lost) == ([] if taken else [known.offset])
        if taken:
            known.astray = known.holder is None
            self.apply(known, outcome, None)

    def apply(self, known: Known, outcome: Outcome, delay: int | None) -> None:
        if outcome is Outcome.ACK:
            self.settle_all([known])
        elif outcome is Outcome.RELEASE:
            known.free()
        elif outcome is Outcome.REJECT:
            known.record = True
            known.free("dying")
        else:
            self.fail(known, delay)

    def fail(self, known: Known, delay: int | None = None) -> None:
        known.record = True
        known.attempts += 1
        decided = RETRY.delay(known.attempts, 0.5)
        wait = decided if delay is None else delay
        if decided is None or wait is None:
            known.free("dying")
        elif wait:
            known.free("delayed")
            known.due = self.wall + wait
        else:
            known.free()

    @rule()
    def purge(self) -> None:
        gone = [k for k in self.known.values() if k.unheld]
        assert self.queue.purge() == len(gone)
        self.settle_all(gone)

    # Time and disk

    @rule(ms=st.sampled_from([1, 120, 600, 1_100, 6_000]))
    def tick(self, ms: int) -> None:
        self.now += ms / 1000
        self.wall += ms
        self.queue.tick(self.now, self.wall, 0.5)
        for known in self.in_state("leased"):
            if known.deadline <= self.now:
                self.fail(known)
        for known in self.in_state("delayed"):
            if known.due <= self.wall:
                known.free()
        for known in self.expiring():
            if self.expiry(known) <= self.wall:
                self.told.add(known.offset)
                if known.unheld:
                    self.settle_all([known])
        left = self.queue.deadline(self.now, self.wall)
        assert left is None or left > self.now or self.queue.unfinished

    @rule()
    def commit(self) -> None:
        changes = self.queue.take_changes()
        dying = self.in_state("dying")
        assert sorted(dead.offset for dead in changes.dead) == [known.offset for known in dying]
        self.settle_all(dying)
        disk = self.disk
        disk.floor = changes.floor
        disk.pages.update(changes.pages)
        disk.pages = {page: found for page, found in disk.pages.items() if page >= page_of(disk.floor + 1)}
        for offset, record in changes.records.items():
            disk.records.pop(offset, None)
            if record is not None:
                disk.records[offset] = replace(record)
        disk.settled = set(self.settled)
        disk.failed = {k.offset: (k.attempts, k.deliveries, k.due) for k in self.known.values() if k.record}
        assert not self.queue.changed

    @rule()
    def crash(self) -> None:
        """What was not committed is undone: that is done again, and nothing else."""
        disk, log = self.disk, self.log
        queue = self.queue = Queue(self.spec, disk.floor, self.last_lease)
        waiting = BitMap64([offset for offset in log if offset > disk.floor])
        for settled in disk.pages.values():
            waiting -= settled
        queue.restore(waiting)
        for offset in waiting:
            queue.restore_header(offset, log[offset][3], len(log[offset][4]))
        queue.restored({o: replace(r) for o, r in disk.records.items()}, self.end, handed=True)
        self.settled, self.told = set(disk.settled), set()
        self.known = {o: self.remembered(row, crashed=True) for o, row in log.items() if o not in self.settled}

    def remembered(self, row: Row, *, crashed: bool = False) -> Known:
        meta = unpack_meta(row[3])
        known = Known(row[0], meta.get("key"), meta.get("priority", 0), meta.get("expires_at"), len(row[4]))
        known.handed = crashed
        if row[0] in self.disk.failed:
            known.record = True
            known.attempts, known.deliveries, known.due = self.disk.failed[row[0]]
            known.state = "delayed" if known.due else "waiting"
        return known

    # What must hold

    def see(self, handouts: Sequence[Handout]) -> None:
        """Lease by the model what the machine handed out, and judge it."""
        active = self.queue.members[:1] if self.spec.single_active else self.queue.members
        order = [offset for handout in handouts for offset in handout.offsets]
        if not (self.spec.ordered or self.spec.fair):
            ready = sorted(self.in_state("waiting"), key=lambda k: (-k.priority, k.offset))
            assert order == [k.offset for k in ready[: len(order)]]
        for handout in handouts:
            assert handout.member in active
            assert handout.lease > self.last_lease
            assert handout.member.credit >= 0
            self.last_lease = handout.lease
            for offset in handout.offsets:
                known = self.known[offset]
                assert known.state == "waiting"
                self.judge_order(known)
                known.state, known.holder, known.lease = "leased", handout.member, handout.lease
                known.deadline = self.now + LEASE / 1000

    def judge_order(self, known: Known) -> None:
        if known.key is None or not (self.spec.ordered or self.spec.fair):
            return
        assert all(k.astray for k in self.ahead_of(known))
        same = self.others(known)
        if not any(k.astray for k in (known, *same)):
            older = [k for k in same if k.priority == known.priority and k.offset < known.offset]
            assert not [k for k in older if k.state == "waiting"]

    def ahead_of(self, known: Known) -> list[Known]:
        """Those of its key that are on their way, for which it must wait."""
        if not self.spec.ordered or known.key is None:
            return []
        return [k for k in self.others(known) if k.state in ("leased", "delayed", "dying")]

    def others(self, known: Known) -> list[Known]:
        """The other messages of its key."""
        return [k for k in self.known.values() if k.key == known.key and k is not known]

    def is_open(self, known: Known, member: Member) -> bool:
        """May this member still settle it?"""
        return known.state != "dying" and (known.holder is member or (known.holder is None and known.late))

    @invariant()
    def every_message_is_in_one_state(self) -> None:
        queue = self.queue
        assert set(queue.outstanding) == set(self.known)
        states = {k.offset: (k.state, k.holder) for k in self.known.values()}
        leased = {o: ("leased", member) for member in queue.members for o in member.leased}
        assert leased == {o: state for o, state in states.items() if state[0] == "leased"}
        assert queue.delayed == len(self.in_state("delayed"))
        assert queue.ready + queue.blocked == len(self.in_state("waiting"))
        assert queue.floor == min(self.known, default=queue.scanned + 1) - 1
        failed = {k.offset: (k.attempts, k.deliveries) for k in self.known.values() if k.record}
        assert queue.attempts(self.known) == failed

    @invariant()
    def no_deadline_is_missed(self) -> None:
        times = [k.deadline for k in self.in_state("leased")]
        times += [self.now + (k.due - self.wall) / 1000 for k in self.in_state("delayed")]
        times += [self.now + (self.expiry(k) - self.wall) / 1000 for k in self.expiring()]
        deadline = self.queue.deadline(self.now, self.wall)
        assert (deadline if deadline is not None else math.inf) <= min(times, default=math.inf)

    def teardown(self) -> None:
        """However it stands: one worker that acks what it gets comes to the end of it."""
        if not hasattr(self, "queue"):
            return
        for member in list(self.queue.members):
            self.queue.leave(member, lost=False, wall=self.wall)
        worker = self.queue.join(Silent())
        self.queue.grant(worker, 1 << 20, ROOM)
        for _ in range(len(self.log) + 10):
            self.queue.take_changes()
            self.now += 1_000
            self.wall += 1_000_000
            self.queue.tick(self.now, self.wall, 0.5)
            for handout in self.queue.pick(self.now):
                self.queue.ack(worker, handout.offsets)
        assert not self.queue.outstanding
        assert not self.queue.ready
        assert not self.queue.blocked

    # Small words

    def in_state(self, state: str) -> list[Known]:
        return [known for _, known in sorted(self.known.items()) if known.state == state]

    def expiring(self) -> list[Known]:
        return [k for k in self.known.values() if k.expires_at is not None and k.offset not in self.told]

    def expiry(self, known: Known) -> int:
        """Told by the second."""
        assert known.expires_at is not None
        return -(-known.expires_at // 1000) * 1000

    def settle_all(self, gone: Iterable[Known]) -> None:
        for known in list(gone):
            del self.known[known.offset]
            self.settled.add(known.offset)

    def some_member(self, data: st.DataObject) -> Member:
        return self.queue.members[data.draw(st.integers(0, len(self.queue.members) - 1))]

    def some_offsets(self, data: st.DataObject) -> list[int]:
        """Any that were ever published, and one that was not."""
        return data.draw(st.lists(st.sampled_from([*self.log, self.end + 7]), unique=True, max_size=6))


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=50)
