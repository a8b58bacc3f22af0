"""What clients saw, in the order in which they saw it, and the judge of it: the promises of the broker as checks.

Clients note an action before they take it and an answer when they have it; so whatever the broker did lies between the
two notes. Nothing here knows how the broker works. `test_history.py` holds the judge itself to account.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Name = tuple[str, int]
"""(publisher, its number for the message): what a message is called here; it is in the body."""


@dataclass(frozen=True, slots=True)
class Sent:
    """`due`: unix ms before which it may not be in the log. `group`: messages of one atomic publish share it."""

    key: str | None = None
    due: int = 0
    group: int = 0


@dataclass(frozen=True, slots=True)
class Logged:
    """A message as the log has it."""

    offset: int
    name: Name
    at: int = 0
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    queue: str
    offset: int
    consumer: int
    attempts: int = 0
    deliveries: int = 0


@dataclass(frozen=True, slots=True)
class Settling:
    """Sent by a consumer; whether it took effect is unknown."""

    queue: str
    offset: int
    consumer: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Settled:
    """Answered after its commit."""

    queue: str
    offset: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A consumer's connection is over: what it had in hand it has no longer."""

    consumer: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """Another life of the daemon: nobody has anything in hand, and what was not answered may not have been done."""


Event = Delivered | Settling | Settled | Gone | Restarted


@dataclass
class History:
    """Everything that happened, over all lives of the daemon."""

    sent: dict[Name, Sent] = field(default_factory=dict)
    confirmed: dict[Name, int | None] = field(default_factory=dict)
    refused: set[Name] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)

    def __len__(self) -> int:
        """How much has happened: moments are counted by this."""
        return len(self.sent) + len(self.confirmed) + len(self.events)


class Judge:
    """Collects what is wrong; `faults` is empty when every promise was kept. `stalled`: leases may have run out, which
    counts as an attempt that no worker asked for."""

    def __init__(self, history: History, log: Sequence[Logged], *, stalled: bool = False) -> None:
        self.history = history
        self.log = log
        self.stalled = stalled
        self.faults: list[str] = []
        self.places: dict[Name, list[Logged]] = defaultdict(list)
        for logged in log:
            self.places[logged.name].append(logged)

    def _fault(self, text: str) -> None:
        self.faults.append(text)

    # Publishing

    def publishing(self) -> None:
        """What was confirmed is there, where it was said to be; nothing is there twice, or that nobody sent."""
        for name, offset in self.history.confirmed.items():
            places = [logged.offset for logged in self.places.get(name, ())]
            if not places:
                self._fault(f"{name} was confirmed and is lost")
            elif offset is not None and offset not in places:
                self._fault(f"{name} was confirmed at {offset} and is at {places}")
        for name, found in self.places.items():
            if len(found) > 1:
                self._fault(f"{name} is there {len(found)} times: {[logged.offset for logged in found]}")
            sent = self.history.sent.get(name)
            if sent is None or name in self.history.refused:
                self._fault(f"{name} is there and was {'refused' if sent else 'never sent'}")
            elif found[0].at < sent.due:
                self._fault(f"{name} came {sent.due - found[0].at} ms before its time")

    def publishers_order(self) -> None:
        """One publisher's messages are in the log in the order in which it sent them, unless they waited for their
        time; groups are whole."""
        last: dict[str, int] = {}
        for logged in self.log:
            publisher, number = logged.name
            sent = self.history.sent.get(logged.name)
            if sent is not None and sent.due:
                continue
            if number < last.get(publisher, -1):
                self._fault(f"{logged.name} is behind {publisher}'s {last[publisher]}")
            last[publisher] = number
        groups = {name: s.group for name, s in self.history.sent.items() if s.group}
        whole = Counter((name[0], group) for name, group in groups.items())
        there = Counter((name[0], groups[name]) for name in self.places if name in groups)
        for group, count in there.items():
            if count != whole[group]:
                self._fault(f"of the atomic group {group} {count} of {whole[group]} are there")

    # Queues

    def settling(self, queue: str) -> None:
        """What was settled and answered does not come again; attempts are those that were answered, at most those that
        were sent; release, shutdown and crash count in none."""
        over: dict[int, str] = {}
        answered: Counter[int] = Counter()
        sent: Counter[int] = Counter()
        for event in self._events_of(queue):
            if isinstance(event, Settling):
                sent[event.offset] += event.outcome == "retry"
            elif isinstance(event, Settled):
                answered[event.offset] += event.outcome == "retry"
                if event.outcome in ("ack", "reject"):
                    over[event.offset] = event.outcome
            elif isinstance(event, Delivered):
                offset = event.offset
                if offset in over:
                    self._fault(f"{queue}: {offset} came again after its {over[offset]} was answered")
                if event.attempts < answered[offset] or (event.attempts > sent[offset] and not self.stalled):
                    self._fault(
                        f"{queue}: {offset} came with {event.attempts} attempts; "
                        f"{answered[offset]} retries were answered, {sent[offset]} sent"
                    )
                if event.deliveries:
                    self._fault(f"{queue}: {offset} came with {event.deliveries} lost workers; none had begun")

    def key_order(self, queue: str, most: int) -> None:
        """Messages of one key come one after the other: while one is unfinished (in hand, given back, to be retried)
        no other comes, and none comes for the first time before an older one has. `most` attempts finish one."""
        keys = {logged.offset: logged.key for logged in self.log if logged.key is not None}
        line = _Line(keys)
        for event in self._events_of(queue):
            if isinstance(event, Restarted):
                line.unfinished.clear()
            elif isinstance(event, Delivered) and event.offset in keys:
                self.faults += [f"{queue}: {fault}" for fault in line.comes(event.offset, keys[event.offset])]
            elif isinstance(event, Settling) and event.offset in keys:
                line.settling(event, keys[event.offset], most)

    def ends(self, queue: str, dead: Mapping[int, Sequence[int]], most: int, matching: Iterable[int]) -> None:
        """The queue was worked off: each message was acked or is dead, once. `dead`: original offset → the number of
        entries in the history of each of its dead letters; `most` attempts kill."""
        sent: dict[str, Counter[int]] = defaultdict(Counter)
        answered: dict[str, Counter[int]] = defaultdict(Counter)
        came: set[int] = set()
        for event in self._events_of(queue):
            if isinstance(event, Settling):
                sent[event.outcome][event.offset] += 1
            elif isinstance(event, Settled):
                answered[event.outcome][event.offset] += 1
            elif isinstance(event, Delivered):
                came.add(event.offset)
        for offset in matching:
            if offset not in came:
                self._fault(f"{queue}: {offset} never came")
            elif not sent["ack"][offset] and offset not in dead:
                self._fault(f"{queue}: {offset} was not acked, is not dead, and does not come")
        for offset, histories in dead.items():
            if len(histories) > 1:
                self._fault(f"{queue}: {offset} has {len(histories)} dead letters")
            if answered["ack"][offset]:
                self._fault(f"{queue}: {offset} is dead, its ack was answered")
            if not sent["reject"][offset] and sent["retry"][offset] < most:
                self._fault(f"{queue}: {offset} is dead of {sent['retry'][offset]} retries and no reject")
            fewest = answered["retry"][offset] + answered["reject"][offset]
            asked = sent["retry"][offset] + sent["reject"][offset]
            if histories[0] < fewest or (histories[0] > asked and not self.stalled):
                self._fault(f"{queue}: {offset} is dead with a history of {histories[0]}")
        for offset in answered["reject"]:
            if offset not in dead:
                self._fault(f"{queue}: the reject of {offset} was answered, there is no dead letter")

    def _events_of(self, queue: str) -> Iterable[Event]:
        return (e for e in self.history.events if isinstance(e, Gone | Restarted) or e.queue == queue)


class _Line:
    """Where each key of an ordered queue stands."""

    def __init__(self, keys: Mapping[int, str]) -> None:
        self.unfinished: dict[str, int] = {}
        self._offsets: dict[str, list[int]] = defaultdict(list)
        for offset, key in keys.items():
            self._offsets[key].append(offset)
        self._next: Counter[str] = Counter()  # of a key: index of the first that has not come yet
        self._come: set[int] = set()
        self._retries: Counter[int] = Counter()

    def comes(self, offset: int, key: str) -> Iterable[str]:
        """What is wrong with its coming now."""
        before = self.unfinished.get(key, offset)
        if before != offset:
            yield f"{offset} of {key} came while {before} was unfinished"
        self.unfinished[key] = offset
        self._come.add(offset)
        line = self._offsets[key]
        while self._next[key] < len(line) and line[self._next[key]] in self._come:
            self._next[key] += 1
        if self._next[key] < len(line) and line[self._next[key]] < offset:
            yield f"{offset} of {key} came before {line[self._next[key]]}"

    def settling(self, event: Settling, key: str, most: int) -> None:
        self._retries[event.offset] += event.outcome == "retry"
        finished = event.outcome in ("ack", "reject") or self._retries[event.offset] >= most
        if finished and self.unfinished.get(key) == event.offset:
            del self.unfinished[key]
