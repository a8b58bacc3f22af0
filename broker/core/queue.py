"""The queue machine: who gets which message, and what a settle makes of it. Pure; time comes in, decisions go out.

A message of a queue is always in exactly one state:

    WAITING ──pick──▶ LEASED ──ack──▶ settled            (left of this line: `outstanding`)
       ▲  ▲             │ ├──reject, too many──▶ DYING ──committed──▶ settled, with a copy in $dead/<queue>
       │  └──release────┤ └──retry, expired lease──▶ DELAYED ──due──▶ WAITING
       └──BLOCKED◀── its key is leased or delayed (ordered queues)

What is outstanding, ready, leased is kept as bitmaps and one dict per consumer; records per message exist only from
the second delivery on. The engine asks `pick` for hand-overs, tells every event, persists `take_changes()` with
its next commit, and calls `tick` when `deadline()` has come. Floor 0.
"""

from collections.abc import Iterable, Mapping, Sequence

from pyroaring import BitMap64

from broker.core.backlog import Backlog
from broker.core.lease import Handout, Leases, Member, fitting
from broker.core.message import MAX_DELAY, Row
from broker.core.offsets import PAGE_SIZE, add_rising, page_of, pages_of
from broker.core.record import Changes, Counters, Dead, Record, Records
from broker.core.subscription import Consumer, Outcome, Overflow, Spec

MAX_TRIMMED = 10_000


class Queue:
    """One queue subscription. `lease_base` makes lease numbers differ from those before a restart."""

    def __init__(self, spec: Spec, floor: int, lease_base: int = 0) -> None:
        self.spec = spec
        self.paused = False
        self.counters = Counters()
        self.outstanding = BitMap64()
        self.scanned = floor
        self._leases = Leases(lease_base)
        self._backlog = Backlog(spec)
        self._records = Records()
        self._dying: set[int] = set()
        self._handed = BitMap64()  # was in the hands of who went, or may have been before a restart
        self._dead: list[Dead] = []
        self._dirty_pages: set[int] = set()

    # State, as others see it

    @property
    def floor(self) -> int:
        """Everything up to here is settled or does not match."""
        return int(self.outstanding[0]) - 1 if self.outstanding else self.scanned

    @property
    def members(self) -> list[Member]:
        """The consumers, in the order they came."""
        return self._leases.members

    @property
    def ready(self) -> int:
        """How many wait to be handed out."""
        return len(self._backlog)

    @property
    def size(self) -> int:
        """Bytes of the bodies outstanding, of a queue with a cap of bytes; of others 0."""
        return self._backlog.size

    @property
    def hungry(self) -> bool:
        """Has a consumer that may be served credit left?"""
        return not self.paused and bool(self._leases.eager(self.spec.single_active))

    @property
    def unfinished(self) -> bool:
        """Did the last pick end early, so that another may hand out more?"""
        return self._backlog.unfinished

    @property
    def leased(self) -> int:
        """How many are in consumers' hands."""
        return len(self._leases)

    @property
    def delayed(self) -> int:
        """How many wait for their retry."""
        return self._records.delayed

    @property
    def blocked(self) -> int:
        """How many wait behind a message of their key."""
        return self._backlog.blocked

    def full(self, messages: int, size: int) -> bool:
        """Would so much more pass a cap at which publishers are refused or wait?"""
        spec = self.spec
        if spec.overflow is Overflow.DROP_OLDEST:
            return False
        return bool(
            (spec.max_messages and len(self.outstanding) + messages > spec.max_messages)
            or (spec.max_bytes and self._backlog.size + size > spec.max_bytes)
        )

    # Events: messages come in

    def publish(self, rows: Sequence[Row], now: float, *, hold: bool = False) -> list[Handout]:
        """Committed messages that match, in order; returns what is handed out at once, rows included. `hold`: nothing
        is, because older messages are just being read for the consumers."""
        self.scanned = rows[-1][0]
        offsets = [row[0] for row in rows]
        add_rising(self.outstanding, offsets)
        special = self._backlog.note(rows)
        over = self._over()
        if not (special or over or hold or self.paused or len(self._backlog)):
            return self._hand_over(rows, now)
        self._backlog.add(offsets)
        if over:
            self._drop_oldest()
        return [] if hold else self.pick(now)

    def restore(self, offsets: BitMap64) -> None:
        """At start: these are outstanding; their headers follow by `restore_header` before `restored`."""
        self.outstanding |= offsets

    def restore_header(self, offset: int, meta: bytes | None, size: int) -> None:
        """At start: what a message's header says of key, priority, expiry, and the size of its body."""
        if offset in self.outstanding:
            self._backlog.note_header(offset, meta, size)

    def restored(self, records: Mapping[int, Record], scanned: int, *, handed: bool) -> None:
        """At start: all is known; make ready what is. `handed`: it may have been in somebody's hands before."""
        self.scanned = scanned
        if handed:
            self._handed |= self.outstanding
        waiting = self.outstanding.copy()
        for offset in self._records.restore({o: r for o, r in records.items() if o in self.outstanding}):
            waiting.discard(offset)
            self._backlog.occupy(offset)
        self._backlog.restore(waiting)

    def _over(self) -> bool:
        """Is more outstanding than a cap whose policy is to drop the oldest?"""
        spec = self.spec
        if spec.overflow is not Overflow.DROP_OLDEST:
            return False
        return bool(
            (spec.max_messages and len(self.outstanding) > spec.max_messages)
            or (spec.max_bytes and self._backlog.size > spec.max_bytes)
        )

    def _drop_oldest(self) -> None:
        excess = len(self.outstanding) - self.spec.max_messages if self.spec.max_messages else 0
        self._drop(self._backlog.surplus(self._unheld(), excess, self.spec.max_bytes))

    def _drop(self, victims: Sequence[int]) -> None:
        for offset in victims:
            self._take_out(offset)
        self._settled(victims)
        self.counters.dropped += len(victims)

    def _unheld(self) -> BitMap64:
        """What is in nobody's hands and not on its way out: ready, delayed or blocked."""
        held = self._leases.held()
        held.update(self._dying)
        return self.outstanding - held

    def trim(self, size: int) -> int:
        """Drop the oldest that nobody holds, until at most so many bytes are outstanding, or enough was done in one
        go; how many. For queues with a cap of bytes: of others no sizes are known."""
        victims = self._backlog.surplus(self._unheld()[:MAX_TRIMMED], 0, size)
        self._drop(victims)
        return len(victims)

    # Handing out

    def join(self, consumer: Consumer) -> Member:
        """A consumer comes, without credit."""
        member = Member(consumer)
        self.members.append(member)
        return member

    def roomy(self, size: int) -> bool:
        """Has every consumer that would be served room for so many bytes?"""
        return all(member.room >= size for member in self._leases.eager(self.spec.single_active))

    def _hand_over(self, rows: Sequence[Row], now: float) -> list[Handout]:
        """The caught-up path: nothing waits, so rows in memory go straight to consumers, in equal shares."""
        handouts: list[Handout] = []
        eager = self._leases.in_turn(self.spec.single_active)
        at = 0
        for i, member in enumerate(eager):
            share = -(-(len(rows) - at) // (len(eager) - i))
            part = rows[at : at + min(share, member.credit)]
            part, size = fitting(part, member.room, not member.leased)
            if part:
                handouts.append(self._lease(member, [row[0] for row in part], now, part, size))
                at += len(part)
        if at < len(rows):
            self._backlog.add([row[0] for row in rows[at:]])
        return handouts

    def pick(self, now: float, limit: int = 1_000) -> list[Handout]:
        """Lease what is ready to whom has credit, at most `limit` messages each; the caller finds the rows and may
        `unpick` those that do not fit the bytes granted."""
        handouts: list[Handout] = []
        if self.paused or not len(self._backlog):
            return handouts
        eager = self._leases.in_turn(self.spec.single_active)
        for i, member in enumerate(eager):
            share = -(-len(self._backlog) // (len(eager) - i))
            offsets = self._backlog.take(min(share, member.credit, limit))
            if offsets:
                handouts.append(self._lease(member, offsets, now, None, 0))
        return handouts

    def _lease(self, member: Member, offsets: list[int], now: float, rows: Sequence[Row] | None, size: int) -> Handout:
        member.room -= size
        return Handout(member, offsets, self._leases.lease(member, offsets, now + self.spec.lease / 1000), rows)

    def charge(self, member: Member, size: int) -> None:
        """The rows of a pick were found and weigh so many bytes."""
        member.room -= size

    def unpick(self, member: Member, offsets: Sequence[int], wants: int = 0) -> None:
        """These of a pick were not delivered after all; they are ready as before and the credit is whole. `wants`: the
        bytes of the first of them, when the member has no room for it."""
        member.wants = wants
        for offset in member.release(offsets):
            member.credit += 1
            self._backlog.back(offset)

    def gone(self, member: Member, offsets: Sequence[int]) -> None:
        """These of a pick are no longer in the log: nothing is left to deliver."""
        mine = member.release(offsets)
        member.credit += len(mine)
        self._settled(mine)

    def attempts(self, offsets: Iterable[int]) -> dict[int, tuple[int, int]]:
        """(attempts, deliveries) of those that were delivered before."""
        return self._records.attempts(offsets)

    # Events: messages are settled

    def ack(self, member: Member, offsets: Sequence[int]) -> Sequence[int]:
        """Done. Returns those that were not this member's to settle any more."""
        mine = member.release(offsets)
        lost: Sequence[int] = ()
        if len(mine) != len(offsets):
            others = set(offsets).difference(mine)
            lost = [offset for offset in others if not self._surrender(member, offset, None)]
            mine += others.difference(lost)
        self.counters.acked += len(mine)
        self._settled(mine)
        return lost

    def settle(
        self,
        member: Member | None,
        outcome: Outcome,
        offsets: Sequence[int],
        *,
        wall: int,
        chance: float,
        delay: int | None = None,
        error: str | None = None,
        lease: int | None = None,
    ) -> Sequence[int]:
        """Apply an outcome; returns the offsets that were not the settler's any more. `wall` is unix ms, `chance` a
        random number in [0, 1). Without a member, whoever holds lease number `lease` (or nobody) is settled."""
        if outcome is Outcome.ACK and member is not None:
            return self.ack(member, offsets)
        lost: list[int] = []
        for offset in offsets:
            if not self._surrender(member, offset, lease):
                lost.append(offset)
            elif outcome is Outcome.ACK:
                self.counters.acked += 1
                self._settled([offset])
            elif outcome is Outcome.RELEASE:
                self._backlog.back(offset)
            elif outcome is Outcome.REJECT:
                self._records.remember(offset, "rejected", error, wall)
                self._kill(offset, "rejected")
            else:
                self._fail(offset, "retry", error, wall, chance, delay)
        return lost

    def holds(self, offset: int, lease: int | None) -> bool:
        """Could a settle that quotes this lease be applied? None: whoever holds it."""
        if offset not in self.outstanding or offset in self._dying:
            return False
        holder = self._leases.holder(offset)
        if holder is None:
            return lease is None or self._was_out(offset)
        return lease is None or holder.leased[offset].number == lease

    def _surrender(self, member: Member | None, offset: int, lease: int | None) -> bool:
        """Take the message out of the hands of the settler; False when it is somebody else's, settled, or was in
        nobody's hands yet. A settle that comes late counts as long as the message is not leased anew."""
        if member is not None:
            mine = member.leased.get(offset)
            lease = 0 if mine is None else mine.number
        if not self.holds(offset, lease):
            return False
        holder = self._leases.holder(offset)
        if holder is None:
            self._take_out(offset)
        else:
            holder.release([offset])
        return True

    def _was_out(self, offset: int) -> bool:
        """Was a message that nobody holds in somebody's hands: its lease ran out, or its holder went, perhaps with
        the daemon before this one? What was given back was not."""
        return offset in self._records or offset in self._handed

    def _take_out(self, offset: int) -> None:
        """Out of ready, delayed or blocked: the caller settles or delays it anew."""
        self._backlog.remove(offset)
        self._records.resume(offset)

    def _settled(self, offsets: Sequence[int]) -> None:
        if not offsets:
            return
        gone = BitMap64(offsets)
        self.outstanding -= gone
        if self._handed:
            self._handed -= gone
        self._dirty_pages |= pages_of(offsets)
        self._records.forget(offsets)
        self._backlog.settled(offsets, gone)

    def _fail(
        self, offset: int, outcome: str, error: str | None, wall: int, chance: float, delay: int | None = None
    ) -> None:
        """A real failure: ask the retry policy."""
        record = self._records.remember(offset, outcome, error, wall)
        record.attempts += 1
        decided = self.spec.retry.delay(record.attempts, chance)
        if decided is None:
            self._kill(offset, "too many attempts")
            return
        self.counters.retried += 1
        wait = min(decided if delay is None else delay, MAX_DELAY)
        if wait:
            self._records.delay(offset, wall + wait)
            self._backlog.occupy(offset)
        else:
            self._backlog.back(offset)

    def _kill(self, offset: int, reason: str) -> None:
        self._dying.add(offset)
        self._backlog.occupy(offset)
        self._dead.append(Dead(offset, reason, self._records.history(offset)))

    # Events: consumers change

    def grant(self, member: Member, messages: int, size: int) -> None:
        """More credit."""
        member.credit += messages
        member.room += size

    def extend(self, member: Member, offsets: Sequence[int], duration: int, now: float) -> list[int]:
        """Prolong leases to `duration` ms from now; returns those that are no longer this member's."""
        return self._leases.extend(member, offsets, now + duration / 1000)

    def started(self, member: Member, offsets: Iterable[int]) -> None:
        """Work on these has begun."""
        member.started.update(o for o in offsets if o in member.leased)

    def leave(self, member: Member, *, lost: bool, wall: int) -> None:
        """A consumer goes; `lost` when its connection broke, which counts against what it had started."""
        if member not in self.members:
            return
        self.members.remove(member)
        leased, member.leased = member.leased, {}
        self._handed.update(leased)
        for offset in leased:
            if lost and offset in member.started:
                record = self._records.remember(offset, "worker lost", None, wall)
                record.deliveries += 1
                if record.deliveries >= self.spec.max_deliveries:
                    self._kill(offset, "worker lost too often")
                    continue
            self._backlog.back(offset)

    def purge(self) -> int:
        """Settle all that is ready, delayed or blocked; returns how many."""
        gone = self._unheld()
        self._backlog.remove_all(gone)
        self._settled(list(gone))
        return len(gone)

    # Time

    def deadline(self, now: float, wall: int) -> float | None:
        """When `tick` has something to do (monotonic seconds), or None."""
        times = [] if self._leases.soonest is None else [self._leases.soonest]
        if self.unfinished and self._leases.eager(self.spec.single_active):
            times.append(now)
        walls = (self._records.next_due, self._backlog.next_expiry)
        times += [now + (due - wall) / 1000 for due in walls if due is not None]
        return min(times, default=None)

    def tick(self, now: float, wall: int, chance: float) -> None:
        """End leases that ran out, make due retries ready, settle what expired."""
        for offset in self._leases.run_out(now):
            self.counters.leases_expired += 1
            self._fail(offset, "lease ran out", None, wall, chance)
        for offset in self._records.due(wall):
            self._backlog.back(offset)
        if ended := self._backlog.expired(wall):
            self._expire(ended)

    def _expire(self, offsets: BitMap64) -> None:
        """Settle those that nobody holds; what is in a worker's hands it may finish."""
        waiting = list(offsets & self._unheld())
        for offset in waiting:
            self._take_out(offset)
        self._settled(waiting)
        self.counters.expired += len(waiting)

    def expired(self, member: Member, offsets: Sequence[int]) -> None:
        """The caller found, with the rows in hand, that these have expired: settle them instead of delivering."""
        mine = member.release(offsets)
        member.credit += len(mine)
        self._settled(mine)
        self.counters.expired += len(mine)

    # For the commit

    @property
    def changed(self) -> bool:
        """Is there something that a commit should persist?"""
        return bool(self._dirty_pages or self._records.changed or self._dead)

    def take_changes(self) -> Changes:
        """Hand over what changed since the last call; the caller persists it in one transaction, dead letters'
        copies included, whose originals count as settled from now on."""
        dead, self._dead = self._dead, []
        if dead:
            self.counters.dead += len(dead)
            self._dying.difference_update(d.offset for d in dead)
            self._settled([d.offset for d in dead])
        floor = self.floor
        changes = Changes(dead=dead, floor=floor, records=self._records.take_changes())
        for page in self._dirty_pages:
            if page >= page_of(floor + 1):
                changes.pages[page] = self._settled_in(page, floor)
        self._dirty_pages.clear()
        self._backlog.forget_below(floor)
        return changes

    def _settled_in(self, page: int, floor: int) -> BitMap64:
        """What of a page is settled above the floor. Offsets that do not match are in it too, which does no harm."""
        first, last = max(page * PAGE_SIZE, floor + 1), min((page + 1) * PAGE_SIZE, self.scanned + 1)
        settled = BitMap64()
        if first < last and self.outstanding.range_cardinality(first, last) < last - first:
            settled.add_range(first, last)
            settled -= self.outstanding
        return settled
