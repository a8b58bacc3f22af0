"""Step 1 of the journey at the native door: PUBLISH and UNIT frames become units; receipts become CONFIRM and REFUSE.

What one read of the socket brings is one unit, so that a commit answers a connection once. Floor 4.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from broker.core.errors import BrokerError, Code
from broker.core.message import MAX_DELAY, Draft
from broker.core.subscription import Outcome
from broker.engine.base import Receipt, Refused, Scheduled, Sequences, Set, Settle, Unit
from broker.protocols.native import wire
from broker.protocols.native.wire import Frame

if TYPE_CHECKING:
    from broker.protocols.native.session import Session

_PAIRS = {2}
_BYTES = {bytes}
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
ATOMIC = 1
MAX_OFFSETS = 65_536
UNIT_BYTES = 1_024
"""About what a unit takes in memory beside what it holds."""


class Intake:
    """Takes messages for one session."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self._hub = session.hub
        self._send = session.send
        self._uncommitted = 0
        self._sequence = 0
        self._refused: list[Refused] = []  # what the next unit tells the engine of refusals before it
        self._unit: Unit | None = None
        self._marks: list[tuple[int, int, int]] = []  # of the unit: sequence, index of its first draft, count

    def greeted(self, sequence: int) -> None:
        """The publisher goes on after this sequence."""
        self._sequence = sequence

    def publish(self, frame: Frame) -> None:
        """PUBLISH. Raises BAD_FRAME."""
        sequence, messages = frame[1], frame[2]
        if len(messages) > self._hub.limits.max_batch:
            raise BrokerError(Code.BAD_FRAME, f"a frame holds at most {self._hub.limits.max_batch} messages")
        messages = self._fresh(sequence, messages)
        if not messages:
            return
        atomic = len(frame) > 3 and frame[3] == ATOMIC
        if atomic:
            self.submit()  # a unit answers for no sequence of another
        first = self._sequence + 1
        self._sequence += len(messages)
        if set(map(len, messages)) != _PAIRS or not self._plain(first, messages):
            self._mixed(first, messages, atomic=atomic)
        if atomic:
            self.submit()

    def _fresh(self, sequence: int, messages: Sequence[Any]) -> Sequence[Any]:
        """Leave out what this publisher sent before. Raises BAD_FRAME for a gap."""
        expected = self._sequence + 1
        if sequence == expected:
            return messages
        if type(sequence) is not int or sequence > expected:
            raise BrokerError(Code.BAD_FRAME, f"sequence {sequence} where {expected} was due")
        # Sent before on this connection, perhaps not committed yet: the confirm comes in its turn all the same.
        self._open()
        self._marks.append((expected, 0, 0))
        return messages[expected - sequence :]

    def _plain(self, sequence: int, messages: Sequence[Any]) -> bool:
        """The fast path: topics known, bodies fit, no options. False when a message needs a closer look."""
        topics, bodies = zip(*messages, strict=True)
        principal = self._session.principal
        if not principal.topics.issuperset(topics):
            try:
                for topic in set(topics):
                    self._hub.check_publish(principal, topic)
            except BrokerError:
                return False
        if set(map(type, bodies)) != _BYTES:
            return False
        lengths = list(map(len, bodies))
        if max(lengths) > self._hub.limits.max_body:
            return False
        unit = self._open()
        self._marks.append((sequence, len(unit.publishes), len(messages)))
        unit.publishes += [(topic, None, body) for topic, body in messages]
        unit.size += sum(lengths)
        return True

    def _open(self) -> Unit:
        """The unit that gathers what one read of the socket brings."""
        if self._unit is None:
            self._unit = Unit(sender=self._session.sender, principal=self._session.counted)
            self._marks = []
        return self._unit

    def _mixed(self, sequence: int, messages: Sequence[Any], *, atomic: bool) -> None:
        """Messages with options, or with something wrong: one by one."""
        unit = self._open()
        first, index = sequence, len(unit.publishes)
        for i, message in enumerate(messages):
            try:
                draft = self._draft(message)
            except BrokerError as error:
                if atomic:
                    self._unit = None
                    self._turn_away(sequence, len(messages), error)
                    self._open()
                    self._marks.append((sequence, 0, 0))
                    return
                self._turn_away(sequence + i, 1, error)
            else:
                if not isinstance(draft, Scheduled):
                    unit.publishes.append(draft)
                    unit.size += _size(draft)
                    continue
                unit.schedules.append(draft)
                unit.size += _size(draft.draft)
            self._marks.append((first, index, len(unit.publishes) - index))
            first, index = sequence + i + 1, len(unit.publishes)
        self._marks.append((first, index, len(unit.publishes) - index))

    def _draft(self, message: Any) -> Draft | Scheduled:
        topic, body = message[0], message[1]
        options = message[2] if len(message) > 2 else None
        self._hub.check_publish(self._session.principal, topic)
        if type(body) is not bytes:
            raise BrokerError(Code.BAD_MESSAGE, "the body must be bin")
        if len(body) > self._hub.limits.max_body:
            raise self._hub.limits.body_too_large(len(body))
        if options is None:
            return (topic, None, body)
        if type(options) is not dict:
            raise BrokerError(Code.BAD_OPTION, "options must be a map")
        return self._hub.draft_with(topic, body, options)

    def _turn_away(self, sequence: int, count: int, error: BrokerError) -> None:
        """Refuse what never becomes part of a unit."""
        self._refused.append((sequence, count, error.code.value))
        self._refuse(sequence, count, error)

    def _refuse(self, sequence: int, count: int, error: BrokerError) -> None:
        self._send(wire.REFUSE, sequence, count, error.code.value, error.text)

    def submit(self) -> None:
        """Hand what was gathered from one read to the hub, as one unit."""
        unit = self._unit
        if unit is None:
            return
        self._unit = None
        self._commit(unit, self._marks, self._sequence)

    def _commit(self, unit: Unit, marks: list[tuple[int, int, int]], last: int) -> None:
        first = marks[0][0]
        size = unit.weight() + UNIT_BYTES

        def done(receipt: Receipt) -> None:
            self._confirmed(first, last, marks, size, receipt)

        unit.done = done
        if self._session.publisher is not None:
            unit.publisher = Sequences(self._session.publisher, first, last, tuple(self._refused))
        self._uncommitted += size
        try:
            self._hub.commit(unit)
        except BrokerError as error:
            self._refuse_in_turn(first, last, error, done)
        self._refused.clear()
        self._session.gate.taken(self._uncommitted)

    def _refuse_in_turn(self, first: int, last: int, error: BrokerError, done: Callable[[Receipt], None]) -> None:
        """The hub took nothing: an empty unit carries the refusal, so that it comes behind what is being committed
        (its CONFIRM covers that too) and outlives a lost answer. Raises SHUTTING_DOWN."""
        unit = Unit(sender=self._session.sender, done=lambda receipt: done(Receipt(error=receipt.error or error)))
        if self._session.publisher is not None:
            refused = [*self._refused, (first, last - first + 1, error.code.value)] if last >= first else self._refused
            unit.publisher = Sequences(self._session.publisher, first, last, tuple(refused))
        try:
            self._hub.commit(unit)
        except BrokerError as failure:
            if failure.code is not Code.STORAGE_FAILED:
                raise
            done(Receipt(error=error))  # the engine answered all that was under way when it failed

    def after(self, done: Callable[[Receipt], object]) -> None:
        """Call back when all that came so far is on disk, settles too."""
        self.submit()

        def answered(receipt: Receipt) -> None:
            self._answered(UNIT_BYTES)
            done(receipt)

        self._hub.commit(Unit(sender=self._session.sender, done=answered))
        self._uncommitted += UNIT_BYTES
        self._session.gate.waits(self._uncommitted)

    def _answered(self, size: int) -> None:
        self._uncommitted -= size
        self._session.gate.answered(self._uncommitted)

    def _confirmed(self, first: int, last: int, marks: list[tuple[int, int, int]], size: int, receipt: Receipt) -> None:
        self._answered(size)
        if receipt.error is not None:
            if last >= first:
                self._refuse(first, last - first + 1, receipt.error)
            self._send(wire.CONFIRM, last, (), ())
            return
        if not (receipt.duplicates or receipt.unlogged):
            self._send(wire.CONFIRM, last, _runs(marks, receipt), ())
            return
        places = {index + i: sequence + i for sequence, index, count in marks for i in range(count)}
        duplicates = [(places[i], offset) for i, offset in receipt.duplicates.items()]
        runs = _runs(_without(marks, receipt.duplicates.keys() | receipt.unlogged), receipt)
        self._send(wire.CONFIRM, last, runs, duplicates)

    def transact(self, frame: Frame) -> None:
        """UNIT: everything of it in one transaction."""
        sequence, parts = frame[1], frame[2]
        self.submit()
        if not self._fresh(sequence, (parts,)):
            return
        self._sequence += 1
        unit = Unit(sender=self._session.sender, principal=self._session.counted)
        self._check_parts(parts)
        try:
            for message in parts.get("publish", ()):
                draft = self._draft(message)
                if isinstance(draft, Scheduled):
                    unit.schedules.append(draft)
                    unit.size += _size(draft.draft)
                else:
                    unit.publishes.append(draft)
                    unit.size += _size(draft)
            for entry in parts.get("settle", ()):
                unit.settles += self._settles(*entry)
            for entry in parts.get("set", ()):
                unit.sets.append(self._set_of(*entry))
                unit.size += len(entry[1] or b"")
        except BrokerError as error:
            self._turn_away(sequence, 1, error)
            unit = Unit(sender=self._session.sender, principal=self._session.counted)
        self._commit(unit, [(sequence, 0, len(unit.publishes))], sequence)

    def _check_parts(self, parts: Any) -> None:
        """Bounded before memory is taken. Raises BAD_FRAME."""
        if type(parts) is not dict:
            raise BrokerError(Code.BAD_FRAME, "a unit is a map of publish, settle and set")
        count = len(parts.get("publish", ())) + len(parts.get("set", ()))
        count += sum(max(1, len(entry[2])) for entry in parts.get("settle", ()))
        if count > self._hub.limits.max_batch:
            raise BrokerError(Code.BAD_FRAME, f"a unit holds at most {self._hub.limits.max_batch} things to do")

    def _settles(self, number: int, outcome: str, offsets: Sequence[int], options: Any = None) -> list[Settle]:
        tie = self._session.ties.get(number)
        if tie is None:
            raise BrokerError(Code.LEASE_LOST, f"there is no consumer {number!r} any more")
        if tie.subscription is None:
            raise BrokerError(Code.WRONG_KIND, "only a queue's consumer can settle in a unit")
        delay, error = settle_options(options)
        return [
            Settle(tie.subscription, outcome_of(outcome), offset, tie.attachment.held(offset), delay, error)
            for offset in offsets_of(offsets)
        ]

    def _set_of(self, key: Any, value: Any, expect: Any = None) -> Set:
        self._hub.check_key(self._session.principal, key, value)
        if expect is not None and type(expect) is not int:
            raise BrokerError(Code.BAD_REQUEST, "expect must be a revision")
        return Set(key, value, expect)


def outcome_of(text: Any) -> Outcome:
    """Raises BAD_FRAME."""
    outcome = _OUTCOMES.get(text)
    if outcome is None:
        raise BrokerError(Code.BAD_FRAME, f"no outcome {text!r}; there are {', '.join(_OUTCOMES)}")
    return outcome


def offsets_of(value: Any) -> Sequence[int]:
    """Offsets of messages: whole numbers and nothing else, because the machines look them up unchecked."""
    if type(value) is not tuple or not {int}.issuperset(map(type, value)):
        raise BrokerError(Code.BAD_FRAME, "offsets must be a list of whole numbers")
    if len(value) > MAX_OFFSETS:
        raise BrokerError(Code.BAD_FRAME, f"at most {MAX_OFFSETS} offsets in a frame")
    return value


def settle_options(options: Any) -> tuple[int | None, str | None]:
    """(delay, error). Raises BAD_FRAME."""
    if not options:
        return None, None
    if type(options) is not dict:
        raise BrokerError(Code.BAD_FRAME, "options must be a map")
    delay, error = options.get("delay"), options.get("error")
    if delay is not None and (type(delay) is not int or not 0 <= delay <= MAX_DELAY):
        raise BrokerError(Code.BAD_FRAME, "delay must be milliseconds, from 0 to 10**15")
    if error is not None and type(error) is not str:
        raise BrokerError(Code.BAD_FRAME, "error must be text")
    return delay, error


def _runs(marks: Sequence[tuple[int, int, int]], receipt: Receipt) -> list[tuple[int, int, int, int]]:
    """(sequence, count, offset, at) of consecutive new messages."""
    runs: list[tuple[int, int, int, int]] = []
    for sequence, index, count in marks:
        if not count:
            continue
        offset = receipt.offset + index
        if runs and runs[-1][0] + runs[-1][1] == sequence and runs[-1][2] + runs[-1][1] == offset:
            last = runs[-1]
            runs[-1] = (last[0], last[1] + count, last[2], receipt.at)
        else:
            runs.append((sequence, count, offset, receipt.at))
    return runs


def _size(draft: Draft) -> int:
    return len(draft[2]) + len(draft[1] or b"")


def _without(marks: Sequence[tuple[int, int, int]], gone: Any) -> list[tuple[int, int, int]]:
    return [
        (sequence + i, first + i, 1) for sequence, first, count in marks for i in range(count) if first + i not in gone
    ]
