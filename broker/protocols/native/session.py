"""One connection of the native protocol: frames in, units and settles to the hub, frames out. No sockets.

The shell gives it `write`, tells it when the socket is full or drained, and closes it. Floor 4.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.core.message import Draft
from broker.core.position import Start
from broker.core.subscription import Kind, Outcome
from broker.engine.base import Attachment, Receipt, Scheduled, Set, Settle, Unit
from broker.hub import Hub
from broker.protocols.native import wire
from broker.protocols.native.tie import UNLIMITED, Tie
from broker.protocols.native.wire import Frame, encode

logger = logging.getLogger(__name__)
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_PAIRS = {2}
_BYTES = {bytes}
ATOMIC = 1
MAX_REQUESTS = 100


class Shell(Protocol):
    """What the asyncio side does for a session."""

    def write(self, data: bytes) -> None:
        """Send."""

    def close(self) -> None:
        """Send what was written, then close."""

    def hold(self, *, reading: bool) -> None:
        """Stop or go on reading from the client."""

    def take_over(self, publisher: str) -> None:
        """Close any other session of this publisher."""

    def request(self, number: int, verb: str, arguments: Any) -> None:
        """Run a request that takes time; it answers by itself."""

    def soon(self, call: Callable[[], object]) -> None:
        """Call after the current step of the loop."""


class Session:
    """See the module and PROTOCOL.md."""

    def __init__(self, hub: Hub, principal: Principal, shell: Shell, heartbeat: int) -> None:
        self.hub = hub
        self.principal = principal
        self.shell = shell
        self.heartbeat = heartbeat
        self.reader = wire.FrameReader(hub.limits.max_hello_frame)
        self.client = ""
        self.publisher: str | None = None
        self.greeted = False
        self.closed = False
        self.ties: dict[int, Tie] = {}
        self.uncommitted = 0
        self._held = False
        self._sequence = 0
        self._topics: set[str] = set()
        self._unit: Unit | None = None
        self._marks: list[tuple[int, int, int]] = []  # of the unit: sequence, index of its first draft, count
        self._full = False
        self._handlers: dict[int, Callable[[Frame], None]] = {
            wire.PUBLISH: self._publish,
            wire.SETTLE: self._settle,
            wire.CREDIT: self._credit,
            wire.ATTACH: self._attach,
            wire.EXTEND: self._extend,
            wire.STARTED: self._started,
            wire.DETACH: self._detach,
            wire.REQUEST: self._request,
            wire.UNIT: self._transact,
            wire.PING: lambda frame: self.send(wire.PONG, *frame[1:2]),
            wire.PONG: lambda frame: None,
            wire.GOODBYE: self._goodbye,
        }

    # Bytes in

    def receive(self, data: bytes) -> None:
        """All that one read of the socket brought."""
        try:
            for frame in self.reader.feed(data):
                if not self.greeted:
                    self._hello(frame)
                    continue
                handler = self._handlers.get(frame[0])
                if handler is None:
                    raise BrokerError(Code.BAD_FRAME, f"no frame type {frame[0]}")
                handler(frame)
            self._submit()
        except BrokerError as error:
            self.fail(error)
        except (TypeError, ValueError, KeyError, OverflowError, IndexError) as error:
            self.fail(BrokerError(Code.BAD_FRAME, f"an element has the wrong type or is missing: {error}"))

    def send(self, kind: int, *rest: Any) -> None:
        """One frame to the client."""
        if not self.closed:
            self.shell.write(encode((kind, *rest)))

    def fail(self, error: BrokerError) -> None:
        """Tell an error of the connection and close it."""
        self.send(wire.ERROR, None, error.code.value, error.text)
        self.close()

    def close(self) -> None:
        """Close, by our own decision."""
        if not self.closed:
            self.closed = True
            self.shell.close()

    def lost(self) -> None:
        """The connection is gone: let go of what it held."""
        self.closed = True
        ties, self.ties = self.ties, {}
        for tie in ties.values():
            tie.end(lost=True)

    def drain(self, text: str) -> None:
        """Shutdown: nothing new is delivered; the client settles what it holds and goes."""
        self.send(wire.CLOSING, text)
        for tie in self.ties.values():
            tie.stop()

    # Greeting

    def _hello(self, frame: Frame) -> None:
        if self.publisher is not None:
            raise BrokerError(Code.BAD_FRAME, "wait for WELCOME after a HELLO with a publisher")
        if frame[0] != wire.HELLO:
            raise BrokerError(Code.NOT_GREETED)
        version, info = frame[1], frame[2] if len(frame) > 2 else {}
        if type(version) is not int or version < 1 or type(info) is not dict:
            raise BrokerError(Code.UNSUPPORTED_VERSION, f"this broker speaks {wire.VERSION}")
        self.client = str(info.get("client", ""))[:100]
        publisher = info.get("publisher")
        if publisher is None:
            self._welcome(0)
            return
        if type(publisher) is not str or not 1 <= len(publisher) <= 100:
            raise BrokerError(Code.BAD_FRAME, "publisher must be a text of 1 to 100 characters")
        self.publisher = publisher
        self.shell.take_over(publisher)
        # What another connection of this publisher handed in before is on disk when this empty unit is answered.
        self.hub.commit(Unit(sender=self, done=self._proven))

    def _proven(self, receipt: Receipt) -> None:
        if receipt.error is not None:
            self.fail(receipt.error)
        elif self.publisher is not None:
            self._welcome(self.hub.engine.publisher(self.publisher))

    def _welcome(self, sequence: int) -> None:
        limits = self.hub.limits
        self._sequence = sequence
        self.greeted = True
        self.reader.max_frame = limits.max_frame
        info = {
            "epoch": self.hub.engine.epoch,
            "sequence": sequence,
            "max_frame": limits.max_frame,
            "max_body": limits.max_body,
            "max_batch": limits.max_batch,
            "heartbeat": self.heartbeat / 1000,
            "server": "postroom",
            "features": [],
        }
        self.send(wire.WELCOME, wire.VERSION, info)

    # Step 1: publish

    def _publish(self, frame: Frame) -> None:
        sequence, messages = frame[1], frame[2]
        if len(messages) > self.hub.limits.max_batch:
            raise BrokerError(Code.BAD_FRAME, f"a frame holds at most {self.hub.limits.max_batch} messages")
        messages = self._fresh(sequence, messages)
        if not messages:
            return
        first = self._sequence + 1
        self._sequence += len(messages)
        atomic = len(frame) > 3 and frame[3] == ATOMIC
        if atomic:
            self._submit()
        if set(map(len, messages)) != _PAIRS or not self._plain(first, messages):
            self._mixed(first, messages, atomic=atomic)
        if atomic:
            self._submit()

    def _fresh(self, sequence: int, messages: Sequence[Any]) -> Sequence[Any]:
        """Leave out what this publisher sent before. Raises BAD_FRAME for a gap."""
        expected = self._sequence + 1
        if sequence == expected:
            return messages
        if type(sequence) is not int or sequence > expected:
            raise BrokerError(Code.BAD_FRAME, f"sequence {sequence} where {expected} was due")
        known = expected - sequence
        self.shell.soon(lambda: self.send(wire.CONFIRM, min(self._sequence, sequence + len(messages) - 1), (), ()))
        return messages[known:]

    def _plain(self, sequence: int, messages: Sequence[Any]) -> bool:
        """The fast path: topics known, bodies fit, no options. False when a message needs a closer look."""
        topics, bodies = zip(*messages, strict=True)
        if not self._topics.issuperset(topics):
            for topic in set(topics):
                if topic not in self._topics:
                    try:
                        self._topics.add(self.hub.check_publish(self.principal, topic))
                    except BrokerError:
                        return False
        lengths = list(map(len, bodies))
        if set(map(type, bodies)) != _BYTES or max(lengths) > self.hub.limits.max_body:
            return False
        unit = self._open()
        self._marks.append((sequence, len(unit.publishes), len(messages)))
        unit.publishes += [(topic, None, body) for topic, body in messages]
        unit.size += sum(lengths)
        return True

    def _open(self) -> Unit:
        """The unit that gathers what one read of the socket brings."""
        if self._unit is None:
            self._unit = Unit(sender=self)
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
                    self._refuse(sequence, len(messages), error)
                    self._open()
                    self._marks.append((sequence, 0, 0))
                    return
                self._refuse(sequence + i, 1, error)
            else:
                if not isinstance(draft, Scheduled):
                    unit.publishes.append(draft)
                    unit.size += len(draft[2]) + len(draft[1] or b"")
                    continue
                unit.schedules.append(draft)
                unit.size += len(draft.draft[2])
            self._marks.append((first, index, len(unit.publishes) - index))
            first, index = sequence + i + 1, len(unit.publishes)
        self._marks.append((first, index, len(unit.publishes) - index))

    def _draft(self, message: Any) -> Draft | Scheduled:
        topic, body = message[0], message[1]
        options = message[2] if len(message) > 2 else None
        if topic not in self._topics:
            self._topics.add(self.hub.check_publish(self.principal, topic))
        if type(body) is not bytes:
            raise BrokerError(Code.BAD_MESSAGE, "the body must be bin")
        if len(body) > self.hub.limits.max_body:
            raise BrokerError(
                Code.MESSAGE_TOO_LARGE, f"it is {len(body)} bytes, the limit is {self.hub.limits.max_body}"
            )
        if options is None:
            return (topic, None, body)
        if type(options) is not dict:
            raise BrokerError(Code.BAD_OPTION, "options must be a map")
        return self.hub.draft_with(topic, body, options)

    def _refuse(self, sequence: int, count: int, error: BrokerError) -> None:
        self.send(wire.REFUSE, sequence, count, error.code.value, error.text)

    def _submit(self) -> None:
        """Hand what was gathered from one read to the hub, as one unit."""
        unit = self._unit
        if unit is None:
            return
        self._unit = None
        self._commit(unit, self._marks, self._sequence)

    def _commit(self, unit: Unit, marks: list[tuple[int, int, int]], last: int) -> None:
        first = marks[0][0]
        size = unit.size

        def done(receipt: Receipt) -> None:
            self._confirmed(first, last, marks, size, receipt)

        unit.done = done
        if self.publisher is not None:
            unit.publisher = (self.publisher, last)
        self.uncommitted += size
        try:
            self.hub.commit(unit)
        except BrokerError as error:
            done(Receipt(error=error))
            return
        if self.uncommitted > self.hub.limits.max_uncommitted_per_connection and not self._held:
            self._held = True
            self.shell.hold(reading=False)

    def _confirmed(self, first: int, last: int, marks: list[tuple[int, int, int]], size: int, receipt: Receipt) -> None:
        self.uncommitted -= size
        if self._held and self.uncommitted <= self.hub.limits.max_uncommitted_per_connection // 2:
            self._held = False
            self.shell.hold(reading=True)
        if receipt.error is not None:
            self._refuse(first, last - first + 1, receipt.error)
            self.send(wire.CONFIRM, last, (), ())
            return
        if not receipt.duplicates:
            self.send(wire.CONFIRM, last, _runs(marks, receipt), ())
            return
        duplicates = [(_sequence_of(marks, i), offset) for i, offset in receipt.duplicates.items()]
        runs = _runs(_without(marks, receipt.duplicates), receipt)
        self.send(wire.CONFIRM, last, runs, duplicates)

    def _transact(self, frame: Frame) -> None:
        """UNIT: everything of it in one transaction."""
        sequence, parts = frame[1], frame[2]
        self._submit()
        if not self._fresh(sequence, (parts,)):
            return
        self._sequence += 1
        unit = Unit(sender=self)
        try:
            for message in parts.get("publish", ()):
                draft = self._draft(message)
                if isinstance(draft, Scheduled):
                    unit.schedules.append(draft)
                else:
                    unit.publishes.append(draft)
                    unit.size += len(draft[2])
            for entry in parts.get("settle", ()):
                unit.settles += self._settles(*entry)
            for entry in parts.get("set", ()):
                unit.sets.append(self._set_of(*entry))
        except BrokerError as error:
            self._refuse(sequence, 1, error)
            unit = Unit(sender=self)
        self._commit(unit, [(sequence, 0, len(unit.publishes))], sequence)

    def _settles(self, number: int, outcome: str, offsets: Sequence[int], options: Any = None) -> list[Settle]:
        tie = self.ties[number]
        if tie.subscription is None:
            raise BrokerError(Code.WRONG_KIND, "only a queue's consumer can settle in a unit")
        delay, error = _settle_options(options)
        return [
            Settle(tie.subscription, _outcome(outcome), offset, tie.attachment.held(offset), delay, error)
            for offset in offsets
        ]

    def _set_of(self, key: Any, value: Any, expect: Any = None) -> Set:
        self.hub.check_key(self.principal, key, value)
        if expect is not None and type(expect) is not int:
            raise BrokerError(Code.BAD_REQUEST, "expect must be a revision")
        return Set(key, value, expect)

    # Steps 3 to 5: consume

    def _attach(self, frame: Frame) -> None:
        number, subscription = frame[1], frame[2] if len(frame) > 2 else None
        options = (frame[3] if len(frame) > 3 else None) or {}
        if type(number) is not int or number in self.ties:
            raise BrokerError(Code.BAD_FRAME, f"consumer {number!r} is taken or no number")
        if len(self.ties) >= self.hub.limits.max_consumers_per_connection:
            raise BrokerError(Code.BAD_FRAME, "too many consumers on this connection")
        tie = Tie(self, number, subscription)
        try:
            tie.bind(self._bind(tie, subscription, options))
        except BrokerError as error:
            self.send(wire.DETACHED, number, error.code.value, error.text)
            return
        self.ties[number] = tie
        info: dict[str, Any] = {
            "recovered": tie.attachment.recovered,
            "position": f"{self.hub.engine.epoch}.{tie.attachment.position}",
        }
        if subscription is not None:
            spec = self.hub.engine.subscription(subscription).spec
            if spec.kind is Kind.QUEUE:
                info["lease"] = spec.lease
        self.send(wire.ATTACHED, number, info)
        if "credit" in options:
            tie.grant(_amount(options["credit"]), _amount(options.get("bytes")))

    def _bind(self, tie: Tie, subscription: Any, options: dict[str, Any]) -> Attachment:
        topics = options.get("topics") or ()
        if subscription is not None:
            if type(subscription) is not str:
                raise BrokerError(Code.BAD_REQUEST, "a subscription is named by text")
            return self.hub.attach(self.principal, subscription, tie, topics)
        if options.get("live") == "tap":
            return self.hub.tap(self.principal, topics, tie)
        return self.hub.follow(self.principal, topics, Start.parse(options.get("from", "latest")), tie)

    def _tie(self, number: Any) -> Tie | None:
        """A consumer of this connection; None when it has just ended by itself, which is nobody's fault."""
        return self.ties.get(number)

    def _credit(self, frame: Frame) -> None:
        tie = self._tie(frame[1])
        if tie is not None:
            tie.grant(_amount(frame[2]), _amount(frame[3] if len(frame) > 3 else None))

    def _settle(self, frame: Frame) -> None:
        tie = self._tie(frame[1])
        request = frame[5] if len(frame) > 5 else None
        if tie is None:
            if request is not None:
                self.send(wire.REPLY, request, frame[3])
            return
        options = frame[4] if len(frame) > 4 else None
        if options:
            lost = tie.attachment.settle(_outcome(frame[2]), frame[3], *_settle_options(options))
        else:
            lost = tie.attachment.settle(_outcome(frame[2]), frame[3])
        if request is not None:
            self._reply_after_commit(request, list(lost))

    def _reply_after_commit(self, request: int, lost: list[int]) -> None:
        def done(receipt: Receipt) -> None:
            if receipt.error is None:
                self.send(wire.REPLY, request, lost)
            else:
                self.send(wire.ERROR, request, receipt.error.code.value, receipt.error.text)

        self._submit()
        self.hub.commit(Unit(sender=self, done=done))

    def _extend(self, frame: Frame) -> None:
        tie = self._tie(frame[1])
        if tie is not None:
            duration = frame[3]
            if type(duration) is not int or not 0 < duration <= 86_400_000:
                raise BrokerError(Code.BAD_FRAME, "a lease is extended by 1 to 86400000 ms")
            tie.attachment.extend(frame[2], duration)

    def _started(self, frame: Frame) -> None:
        tie = self._tie(frame[1])
        if tie is not None:
            tie.attachment.started(frame[2])

    def _detach(self, frame: Frame) -> None:
        tie = self.ties.pop(frame[1], None)
        if tie is not None:
            tie.end(lost=False)
        self.send(wire.DETACHED, frame[1])

    # Flow of what we send

    def full(self, *, full: bool) -> None:
        """The socket is full, or has drained."""
        self._full = full
        if not full:
            for tie in list(self.ties.values()):
                tie.top_up()

    @property
    def blocked(self) -> bool:
        """Is the socket full?"""
        return self._full or self.closed

    # Requests

    def _request(self, frame: Frame) -> None:
        number, verb = frame[1], frame[2]
        arguments = frame[3] if len(frame) > 3 else None
        if type(number) is not int or type(verb) is not str:
            raise BrokerError(Code.BAD_FRAME, "a request has a number and a verb")
        self._submit()
        self.shell.request(number, verb, arguments or {})

    def _goodbye(self, frame: Frame) -> None:
        self._submit()

        def done(receipt: Receipt) -> None:
            self.close()

        self.hub.commit(Unit(sender=self, done=done))


def _outcome(text: Any) -> Outcome:
    outcome = _OUTCOMES.get(text)
    if outcome is None:
        raise BrokerError(Code.BAD_FRAME, f"no outcome {text!r}; there are {', '.join(_OUTCOMES)}")
    return outcome


def _settle_options(options: Any) -> tuple[int | None, str | None]:
    if not options:
        return None, None
    delay, error = options.get("delay"), options.get("error")
    if delay is not None and (type(delay) is not int or delay < 0):
        raise BrokerError(Code.BAD_FRAME, "delay must be milliseconds, 0 or more")
    if error is not None and type(error) is not str:
        raise BrokerError(Code.BAD_FRAME, "error must be text")
    return delay, error


def _amount(value: Any) -> int:
    if value is None:
        return UNLIMITED
    if type(value) is not int or value < 0:
        raise BrokerError(Code.BAD_FRAME, "credit must be a whole number, 0 or more")
    return min(value, UNLIMITED)


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


def _sequence_of(marks: Sequence[tuple[int, int, int]], index: int) -> int:
    return next(s + index - first for s, first, count in marks if first <= index < first + count)


def _without(marks: Sequence[tuple[int, int, int]], gone: Any) -> list[tuple[int, int, int]]:
    return [
        (sequence + i, first + i, 1) for sequence, first, count in marks for i in range(count) if first + i not in gone
    ]
