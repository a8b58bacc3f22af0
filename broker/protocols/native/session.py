"""One connection of the native protocol: frames in, units and settles to the hub, frames out. No sockets.

The shell gives it `write`, tells it when the socket is full or drained, and closes it. Floor 4.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from broker.auth.identity import Credentials, Identity, credentials_of
from broker.auth.principal import LOCAL, NOBODY
from broker.core.errors import BrokerError, Code
from broker.core.position import Start
from broker.core.subscription import Kind
from broker.engine.base import Attachment, Receipt, Refused, Unit
from broker.hub import Hub
from broker.protocols.native import wire
from broker.protocols.native.gate import FEATURE, HELD, Gate
from broker.protocols.native.intake import Intake, offsets_of, outcome_of, settle_options
from broker.protocols.native.tie import UNLIMITED, Tie
from broker.protocols.native.wire import Frame, encode

logger = logging.getLogger(__name__)
MAX_REQUESTS = 100


class Shell(Protocol):
    """What the asyncio side does for a session."""

    def write(self, data: bytes) -> None:
        """Send."""

    def close(self) -> None:
        """Send what was written, then close."""

    def hold(self, *, reading: bool) -> None:
        """Stop or go on reading from the client."""

    def identify(self, credentials: Credentials | None) -> Identity | None:
        """Who speaks; None: that takes time, and then `identified` or `fail` is called. Raises UNAUTHENTICATED,
        FORBIDDEN."""

    def greeted(self, identity: Identity) -> None:
        """It is known who speaks."""

    def take_over(self, publisher: str) -> None:
        """Close any other session of this publisher."""

    def request(self, number: int, verb: str, arguments: Any) -> None:
        """Run a request that takes time; it answers by itself."""

    def after_requests(self, call: Callable[[], object]) -> None:
        """Call when those that are running have answered."""

    def soon(self, call: Callable[[], object]) -> None:
        """Call after the current step of the loop."""

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call after so long."""


class Session:
    """See the module and PROTOCOL.md."""

    def __init__(self, hub: Hub, shell: Shell, heartbeat: int) -> None:
        self.hub = hub
        self.principal = NOBODY
        self.hello: dict[str, Any] | None = None
        self.shell = shell
        self.heartbeat = heartbeat
        self.reader = wire.FrameReader(hub.limits.max_hello_frame)
        self.client = ""
        self.publisher: str | None = None
        self.sender: Hashable = self  # who the engine takes for one sender, whose units keep their order
        self.greeted = False
        self.closed = False
        self.error: BrokerError | None = None  # what the client was told at the end
        self.ties: dict[int, Tie] = {}
        self.gate = Gate(self)
        self.intake = Intake(self)
        self._full = False
        self._handlers: dict[int, Callable[[Frame], None]] = {
            wire.PUBLISH: self.intake.publish,
            wire.SETTLE: self._settle,
            wire.CREDIT: self._credit,
            wire.ATTACH: self._attach,
            wire.EXTEND: self._extend,
            wire.STARTED: self._started,
            wire.DETACH: self._detach,
            wire.REQUEST: self._request,
            wire.UNIT: self.intake.transact,
            wire.PING: lambda frame: self.send(wire.PONG, *frame[1:2]),
            wire.PONG: lambda _: None,
            wire.GOODBYE: self._goodbye,
        }

    @property
    def counted(self) -> str:
        """Under which name this client has its part and its rate."""
        return self.principal.name

    @property
    def kept(self) -> int:
        """Bytes of what has not come to its end, or is not taken yet."""
        return self.reader.have + self.gate.aside

    # Bytes in

    def receive(self, data: bytes) -> None:
        """All that one read of the socket brought."""
        try:
            frames = self.reader.feed(data)
        except BrokerError as error:
            self.fail(error)
        else:
            self.take(frames)

    def take(self, frames: Sequence[Frame]) -> None:
        """Handle frames that came in one read, or were put aside."""
        gate = self.gate
        try:
            for frame in frames:
                if not self.greeted:
                    self._hello(frame)
                elif gate.shut and frame[0] in HELD:
                    gate.put_aside(frame)
                else:
                    self._handlers.get(frame[0], _unknown)(frame)
            self.intake.submit()
        except BrokerError as error:
            self.fail(error)
        except (TypeError, ValueError, KeyError, OverflowError, IndexError) as error:
            self.fail(BrokerError(Code.BAD_FRAME, f"an element has the wrong type or is missing: {error}"))

    def send(self, kind: int, *rest: Any) -> None:
        """One frame to the client."""
        if not self.closed:
            self.shell.write(encode((kind, *rest)))

    def reply(self, number: int, result: Any) -> None:
        """The result of a request. Raises BAD_OPTION when it does not fit into a frame."""
        packed = encode((wire.REPLY, number, result))
        limit = self.hub.limits.max_frame
        if len(packed) > limit:
            detail = f"the answer takes {len(packed)} bytes, a frame {limit}; ask in pages, by limit and after"
            raise BrokerError(Code.BAD_OPTION, detail)
        if not self.closed:
            self.shell.write(packed)

    def fail(self, error: BrokerError) -> None:
        """Tell an error of the connection and close it."""
        self._tell(error)
        self.close(lost=True)

    def dismiss(self, error: BrokerError) -> None:
        """The same, and the client is not to blame."""
        self._tell(error)
        self.close()

    def _tell(self, error: BrokerError) -> None:
        if not self.closed:
            # Its frames, and those of what was behind it, hold us and all that was read: a cycle of some size.
            error.__traceback__ = error.__context__ = None
            self.error = error
            self.send(wire.ERROR, None, error.code.value, error.text)

    def close(self, *, lost: bool = False) -> None:
        """Close, by our own decision; what it held is ready again at once. `lost`: the client is to blame, which counts
        against what it had started."""
        if not self.closed:
            self.closed = True
            self._let_go(lost=lost)
            self.shell.close()

    def lost(self) -> None:
        """The connection is gone: let go of what it held."""
        self.closed = True
        self._let_go(lost=True)

    def _let_go(self, *, lost: bool) -> None:
        self.gate.lost()
        self.reader = wire.FrameReader(0)  # what it began to send is of no use, and no longer kept
        ties, self.ties = self.ties, {}
        for tie in ties.values():
            tie.end(lost=lost)

    def drain(self, text: str) -> None:
        """Shutdown: nothing new is delivered; the client settles what it holds and goes."""
        self.send(wire.CLOSING, text)
        for tie in self.ties.values():
            tie.stop()

    # Greeting

    def _hello(self, frame: Frame) -> None:
        if self.hello is not None:
            raise BrokerError(Code.BAD_FRAME, "wait for WELCOME after a HELLO with a publisher or a password")
        if frame[0] != wire.HELLO:
            raise BrokerError(Code.NOT_GREETED)
        version, info = frame[1], frame[2] if len(frame) > 2 else {}
        if type(version) is not int or version < 1 or type(info) is not dict:
            raise BrokerError(Code.UNSUPPORTED_VERSION, f"this broker speaks {wire.VERSION}")
        self.client = str(info.get("client", ""))[:100]
        self.hello = info
        identity = self.shell.identify(_credentials(info))
        if identity is not None:
            self._identify(info, identity)

    def identified(self, identity: Identity) -> None:
        """It took time to find out who speaks."""
        if not self.closed and self.hello is not None:
            try:
                self._identify(self.hello, identity.valid())
            except BrokerError as error:
                self.fail(error)

    def _identify(self, info: dict[str, Any], identity: Identity) -> None:
        self.hello = {}  # a password is not kept
        self.principal = identity.principal
        self.shell.greeted(identity)
        features = info.get("features")
        self.gate.tells = type(features) is tuple and FEATURE in features
        publisher = info.get("publisher")
        if publisher is None:
            self._welcome(0, ())
            return
        if type(publisher) is not str or not 1 <= len(publisher) <= 100:
            raise BrokerError(Code.BAD_FRAME, "publisher must be a text of 1 to 100 characters")
        if self.principal is not LOCAL:  # nobody takes over, or learns about, a publisher of somebody else's
            publisher = f"{self.principal.name}/{publisher}"
        self.publisher = publisher
        self.sender = ("publisher", publisher)
        self.shell.take_over(publisher)
        # What another connection of this publisher handed in before is on disk when this empty unit is answered,
        # because all its connections are one sender.
        self.hub.commit(Unit(sender=self.sender, done=self._proven))

    def _proven(self, receipt: Receipt) -> None:
        if receipt.error is not None:
            self.fail(receipt.error)
        elif self.publisher is not None:
            self._welcome(*self.hub.engine.publisher(self.publisher))

    def _welcome(self, sequence: int, refused: Sequence[Refused]) -> None:
        limits = self.hub.limits
        self.intake.greeted(sequence)
        self.greeted = True
        self.reader.max_frame = limits.max_frame
        info = {
            "epoch": self.hub.engine.epoch,
            "sequence": sequence,
            "refused": refused,
            "max_frame": limits.max_frame,
            "max_body": limits.max_body,
            "max_batch": limits.max_batch,
            "heartbeat": self.heartbeat / 1000,
            "server": "postroom",
            "features": [FEATURE],
        }
        self.send(wire.WELCOME, wire.VERSION, info)

    # Steps 3 to 5: consume

    def _attach(self, frame: Frame) -> None:
        number, subscription = frame[1], frame[2] if len(frame) > 2 else None
        options = (frame[3] if len(frame) > 3 else None) or {}
        if type(options) is not dict:
            raise BrokerError(Code.BAD_FRAME, "options must be a map")
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
        if type(topics) is not tuple:
            raise BrokerError(Code.BAD_FILTER, "topics must be a list")
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
            lost = tie.attachment.settle(outcome_of(frame[2]), offsets_of(frame[3]), *settle_options(options))
        else:
            lost = tie.attachment.settle(outcome_of(frame[2]), offsets_of(frame[3]))
        if request is not None:
            self._reply_after_commit(request, list(lost))

    def _reply_after_commit(self, request: int, lost: list[int]) -> None:
        def done(receipt: Receipt) -> None:
            if receipt.error is None:
                self.send(wire.REPLY, request, lost)
            else:
                self.send(wire.ERROR, request, receipt.error.code.value, receipt.error.text)

        self.intake.after(done)

    def _extend(self, frame: Frame) -> None:
        tie = self._tie(frame[1])
        if tie is not None:
            duration = frame[3]
            if type(duration) is not int or not 0 < duration <= 86_400_000:
                raise BrokerError(Code.BAD_FRAME, "a lease is extended by 1 to 86400000 ms")
            tie.attachment.extend(offsets_of(frame[2]), duration)

    def _started(self, frame: Frame) -> None:
        tie = self._tie(frame[1])
        if tie is not None:
            tie.attachment.started(offsets_of(frame[2]))

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
        self.intake.submit()
        self.shell.request(number, verb, arguments or {})

    def _goodbye(self, _: Frame) -> None:
        self.intake.after(lambda _: self.shell.after_requests(self.close))


def _credentials(info: dict[str, Any]) -> Credentials | None:
    """What HELLO brings to say who speaks. Raises BAD_FRAME."""
    token, user, password = info.get("token"), info.get("user"), info.get("password")
    if any(type(value) not in (str, type(None)) for value in (token, user, password)):
        raise BrokerError(Code.BAD_FRAME, "token, user and password must be text")
    if token is not None and user is None and password is None:
        return Credentials(token)
    if token is None and user is not None and password is not None:
        return credentials_of(user, password)
    if token is None and user is None and password is None:
        return None
    raise BrokerError(Code.BAD_FRAME, "give either a token, or a user and a password")


def _unknown(frame: Frame) -> None:
    raise BrokerError(Code.BAD_FRAME, f"no frame type {frame[0]}")


def _amount(value: Any) -> int:
    if value is None:
        return UNLIMITED
    if type(value) is not int or value < 0:
        raise BrokerError(Code.BAD_FRAME, "credit must be a whole number, 0 or more")
    return min(value, UNLIMITED)
