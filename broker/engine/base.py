"""The engine seam, at the level of what a broker promises, so that a distributed engine can keep it natively.

This docstring is the specification of `tests/engine/conformance.py`:

1. *Commit before answer.* `unit.done(receipt)` is called after the unit is on disk and fsynced, or with an error and
   nothing of it done. Units of one sender take effect in the order they were committed, but for settles alone, which
   do not wait with a unit that waits for room in a queue. Offsets strictly increase.
2. *All or nothing.* Publishes, settles, key/value writes, schedules and the publisher's sequence of one unit happen
   together or not at all; a failing condition fails its own unit only.
3. *Nobody is served before the commit.* A consumer sees a message after the publisher could have been answered.
4. *At least once.* A queue message is outstanding until a settle of it is committed; after a restart what was
   outstanding is ready again. While a lease holds, no one else is handed the message.
5. *One call per commit.* `consumer.deliver` is called at most once per commit and per grant of credit; there is no
   task, future or await per message.
6. *Honest positions.* A position of another epoch or below what was pruned is answered with `recovered = False` and
   the place where reading starts instead.
7. *Refusal over pretence.* What an engine cannot do it says in `capabilities`; asking for it raises UNSUPPORTED.

Floor 2.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from broker.core.errors import BrokerError
from broker.core.message import Draft, Row
from broker.core.position import Start
from broker.core.subscription import Consumer, Outcome, Spec


@dataclass(slots=True)
class Settle:
    """One settling inside a unit. `lease` is the number of the delivery; one that has ended counts as long as the
    message is not leased anew. None when the settler does not know it (then any outstanding message is settled).
    `delay` (ms) overrides the retry policy; `error` enters the history."""

    subscription: str
    outcome: Outcome
    offset: int
    lease: int | None = None
    delay: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Set:
    """Write (or, with None, delete) a key. `expect`: the revision the key must have (0: absent), None: whatever.
    `delivers`: a few bytes without which a message that is in the log cannot be delivered, and so cannot leave it."""

    key: str
    value: bytes | None
    expect: int | None = None
    delivers: bool = False


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A message that waits outside the log until `due` (unix ms). `id` names it for cancelling."""

    id: str
    due: int
    draft: Draft


@dataclass(frozen=True, slots=True)
class Waiting:
    """A scheduled message as operators see it; its body may be large, and is nobody's business yet."""

    id: str
    due: int
    topic: str


ITEM_BYTES = 64
"""What a message or a settle weighs beside its body while it waits: a million empty ones are not nothing."""

Refused = tuple[int, int, str]
"""(sequence, count, code): sequences of a publisher that were answered with an error."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences `first` to `last` of publisher `id` that a unit stands for. `refused`: those up to `last` that
    were refused before they became part of a unit."""

    id: str
    first: int
    last: int
    refused: tuple[Refused, ...] = ()


@dataclass(slots=True)
class Receipt:
    """What a unit's publisher is told.

    Message i of the unit has offset `offset + i`, unless it is in `duplicates` (index → the offset of the first
    publish with that id; -1 when that one still waits in the schedule) or in `unlogged`: its topic is of durability
    `memory`, so that it was shown to who listened and has no place. `lost` lists the (subscription, offset) of
    settles that came too late. `revisions`: the key/value revision after each Set.
    """

    offset: int = 0
    at: int = 0
    duplicates: Mapping[int, int] = field(default_factory=dict)
    unlogged: Collection[int] = ()
    error: BrokerError | None = None
    lost: Sequence[tuple[str, int]] = ()
    revisions: Sequence[int] = ()

    def place(self, index: int) -> int | None:
        """The offset at which message `index` is found; None when it has none, or not yet."""
        if index in self.unlogged:
            return None
        offset = self.duplicates.get(index, self.offset + index)
        return None if offset < 0 else offset


@dataclass(slots=True, eq=False)
class Unit:
    """What is committed together.

    `sender` groups units for order and fairness (a connection), `principal` groups senders for fairness. `publisher`:
    its publisher's sequences, committed with it; when the unit is refused, they are committed as refused. `size` is the
    bytes of all bodies and metas. `done` is called once, on the loop's thread.
    """

    publishes: list[Draft] = field(default_factory=list)
    done: Callable[[Receipt], None] | None = None
    sender: Hashable = None
    principal: Hashable = None
    publisher: Sequences | None = None
    size: int = 0
    settles: list[Settle] = field(default_factory=list)
    sets: list[Set] = field(default_factory=list)
    schedules: list[Scheduled] = field(default_factory=list)

    def brings(self) -> bool:
        """Whether it needs room on the disk for long, more than settling and delivering what is there."""
        return bool(self.publishes or self.schedules) or any(item.value and not item.delivers for item in self.sets)

    def weight(self) -> int:
        """About the bytes that it takes in memory."""
        items = len(self.publishes) + len(self.settles) + len(self.sets) + len(self.schedules)
        return self.size + ITEM_BYTES * items


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this engine can keep exactly."""

    exact_priority: bool = True
    atomic_settle_and_publish: bool = True
    sub_second_ttl: bool = True
    blocking: bool = True  # overflow `block`


@dataclass(slots=True)
class Page:
    """A piece of the log: rows in order, the offset up to which everything that matches was seen (`scanned`), and
    whether reading really began where it was asked to."""

    rows: list[Row]
    scanned: int
    recovered: bool = True


@dataclass(slots=True)
class SubscriptionInfo:
    """A subscription as operators see it. For streams only `floor` (the committed cursor), `lag` and `consumers`
    count. `oldest_at`: published_at of the oldest outstanding message, unix ms. `dead_letters` are in `$dead/<name>`
    now; `acked` and what follows count since the start."""

    spec: Spec
    paused: bool = False
    floor: int = 0
    lag: int = 0
    ready: int = 0
    leased: int = 0
    delayed: int = 0
    blocked: int = 0
    consumers: int = 0
    oldest_at: int | None = None
    dead_letters: int = 0
    acked: int = 0
    retried: int = 0
    dead: int = 0
    expired: int = 0
    dropped: int = 0
    leases_expired: int = 0


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as operators see it: messages and bytes of bodies still in the log."""

    name: str
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Stats:
    """The engine in numbers; `state` is `running`, `disk_low` or `failed`, `reason` says why."""

    state: str
    reason: str
    epoch: str
    next_offset: int
    commits: int
    committed_messages: int
    pending_units: int
    pending_bytes: int
    cache_bytes: int
    file_bytes: int
    wal_bytes: int
    disk_free_bytes: int
    scheduled: int
    subscriptions: int
    last_commit_seconds: float
    extra: Mapping[str, Any] = field(default_factory=dict)


class Attachment(Protocol):
    """A consumer's end of its tie to a subscription. All calls come from the loop's thread.

    `recovered` is False when reading could not begin where it was asked to; `position` is where it began (everything
    up to this offset counts as seen).
    """

    recovered: bool
    position: int

    @property
    def skipped(self) -> int:
        """Messages that passed it by, because they are in no log and it had no credit."""

    def grant(self, messages: int, size: int) -> None:
        """Add credit: so many messages and bytes more may be delivered. Deliveries never exceed credit, but for one
        message larger than all the bytes granted. A negative number takes back what was not used yet; what the
        engine is reading for the consumer may still come."""

    def settle(
        self, outcome: Outcome, offsets: Sequence[int], delay: int | None = None, error: str | None = None
    ) -> Sequence[int]:
        """Settle without waiting for the disk (the next commit carries it); returns the offsets that were no longer
        this consumer's to settle: settled, given back, leased anew, or never handed out. What was handed out over a
        connection that broke, or before a restart, still is. On a stream `ack` moves the cursor to the highest
        offset."""

    def extend(self, offsets: Sequence[int], duration: int) -> Sequence[int]:
        """Prolong leases to `duration` ms from now; returns the offsets that are no longer leased."""

    def started(self, offsets: Sequence[int]) -> None:
        """The worker began on these: if it is lost now, that counts as a delivery that killed it."""

    def held(self, offset: int) -> int | None:
        """The number of the lease under which this consumer holds a message; 0 when it does not."""

    def refilter(self, filters: Sequence[str]) -> None:
        """Of `follow` alone: read by these filters from here on, without a gap in those that stay. One that is behind
        may also be handed what the new ones match in what it has not read yet. Raises UNSUPPORTED."""

    def detach(self, *, lost: bool = False) -> None:
        """Go away: what is leased and not settled becomes ready again. `lost`: the connection broke, which counts
        against what was started (poison)."""


class Engine(Protocol):
    """The promises are in the module's docstring. All methods are called on the loop's thread."""

    capabilities: Capabilities

    @property
    def epoch(self) -> str:
        """Of the log; a restored log has another one."""

    async def start(self) -> None:
        """Open and recover; afterwards everything below works."""

    async def stop(self) -> None:
        """Commit what waits, let consumers go, close."""

    def commit(self, unit: Unit) -> None:
        """Take a unit; it is answered through `unit.done`. Raises STORAGE_FAILED or SHUTTING_DOWN at once
        when nothing can be taken, DISK_LOW for what brings something (settles and deliveries go on, keys are deleted
        or emptied); all else, as QUEUE_FULL for a queue at its cap, is told in the receipt. With overflow `block` a
        unit waits some seconds for room before, and behind it what its sender commits after it."""

    def publisher(self, publisher: str) -> tuple[int, list[Refused]]:
        """(last sequence answered, 0 for an unknown publisher; the recent ones up to it that were refused), on disk.
        What was handed in before is included once an empty unit committed after it is answered."""

    def attach(self, subscription: str, consumer: Consumer, filters: Sequence[str] = ()) -> Attachment:
        """Become a consumer of a subscription. Raises UNKNOWN_SUBSCRIPTION. `filters` narrows a stream's reading."""

    def follow(self, filters: Sequence[str], start: Start, consumer: Consumer, *, passing: bool = False) -> Attachment:
        """Replay from `start` and go on live, in order, without a gap, keeping nothing (an anonymous stream). A
        `passing` reader also sees what enters no log (offset 0) while it is live and has credit, and nothing is stored
        for its sake."""

    def keeps(self, topic: str) -> bool:
        """Must a message of this topic that promises nothing (MQTT's QoS 0) be stored all the same: for a queue, a
        stream, a reader of the log, or by a policy that names the topic? If not, `pass_by` is for it."""

    def pass_by(self, drafts: Sequence[Draft]) -> None:
        """Show messages to taps and passing readers at once, and to nobody else; they enter no log."""

    def tap(self, filters: Sequence[str], consumer: Consumer) -> Attachment:
        """See messages pass, including topics of durability `memory` (offset 0); what exceeds credit is skipped."""

    async def put_subscription(self, spec: Spec) -> bool:
        """Create or change; True when created. Raises CONFLICT (other kind), BAD_FILTER, UNSUPPORTED."""

    async def delete_subscription(self, name: str) -> None:
        """Raises UNKNOWN_SUBSCRIPTION. Its consumers are detached, its progress is forgotten."""

    def specs(self) -> list[Spec]:
        """The settings of all subscriptions, in no order. Cheap."""

    def subscriptions(self) -> list[SubscriptionInfo]:
        """All, by name."""

    def subscription(self, name: str) -> SubscriptionInfo:
        """Raises UNKNOWN_SUBSCRIPTION."""

    async def pause(self, name: str, paused: bool) -> None:
        """Stop or resume handing out; survives a restart."""

    async def peek(self, name: str, limit: int, after: int = -1, max_bytes: int = 4 << 20) -> list[Row]:
        """The oldest outstanding messages above the offset `after`, leased ones included, without touching them: at
        most `limit`, and `max_bytes` of bodies or a single larger one."""

    def outstanding(self, name: str, offsets: Iterable[int]) -> set[int]:
        """Those of these messages that the queue has not settled. Raises UNKNOWN_SUBSCRIPTION, WRONG_KIND."""

    def weight(self, name: str) -> tuple[int, int]:
        """(messages, bytes of their bodies) that a queue has not settled; the bytes of queues with `max_bytes` alone.
        Cheap. Raises UNKNOWN_SUBSCRIPTION, WRONG_KIND."""

    async def trim(self, name: str, max_bytes: int) -> int:
        """Of a queue with `max_bytes`: settle the oldest that nobody has in hand until at most so many bytes are not
        settled, or enough was done in one go, and count them as dropped; returns how many. Raises UNKNOWN_SUBSCRIPTION,
        WRONG_KIND."""

    async def purge(self, name: str) -> int:
        """Settle everything outstanding that is not leased; returns how many."""

    async def redrive(self, name: str, limit: int) -> int:
        """Put up to `limit` dead letters of this queue back into it alone, oldest first; returns how many."""

    async def purge_dead(self, name: str, limit: int) -> int:
        """Delete up to `limit` dead letters of this queue for good, oldest first; returns how many."""

    async def read(self, filters: Sequence[str], start: Start, limit: int, max_bytes: int = 4 << 20) -> Page:
        """Replay: matching messages in order of offset, at most `limit` and about `max_bytes`."""

    async def fetch_within(self, offsets: Sequence[int], size: int) -> tuple[list[Row], int]:
        """The messages at the first of these offsets (in any order) whose bodies take `size` bytes together, one at
        least, expired or settled ones too; and how many offsets that are. They rise; those pruned are left out."""

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """(value, revision) of a key, or None."""

    async def items(self, prefix: str) -> list[tuple[str, bytes, int]]:
        """(key, value, revision) of all keys that begin with `prefix`, by key."""

    async def keys(self, prefix: str, after: str | None = None, limit: int = 10_000) -> list[str]:
        """The first `limit` keys above `after` that begin with `prefix`, sorted."""

    async def scheduled(self, limit: int) -> list[Waiting]:
        """What waits for its time, soonest first."""

    async def cancel(self, schedule_id: str, concerns: Callable[[str], bool] = lambda _: True) -> bool:
        """True when it waited, to a topic that `concerns` the caller, and now never comes."""

    def topic_names(self) -> list[str]:
        """The topics with messages, in no order. Cheap."""

    def topics(self, names: Iterable[str] | None = None) -> list[TopicInfo]:
        """All topics with messages, or these of them, by name."""

    def stats(self) -> Stats:
        """Cheap: no query."""
