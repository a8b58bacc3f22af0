"""What is said over a WebSocket, without the socket: texts in, work to the hub, texts out. STREAM.md is the spec.

A dialogue holds several subscriptions, publishes and settles. What it is asked and refuses is answered with `refused`
and harms nothing else; what cannot be understood at all ends it. Floor 4.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.position import LATEST, Position, Start
from broker.core.subscription import Delivery, Kind, Outcome
from broker.engine.base import Attachment, Receipt, Unit
from broker.hub import Hub
from broker.protocols.http.draft import outgoing
from broker.protocols.http.follower import UNLIMITED, Follower, Slow
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.problem import document
from broker.protocols.http.representation import check_sayable, dumps, loads, message_json, receipt_json
from broker.protocols.http.settlement import OUTCOMES, lease_of, settle_options

_log = logging.getLogger(__name__)
MAX_NUMBER = (1 << 53) - 1
"""The largest whole number that every JSON reader keeps exact (RFC 8259 §6)."""
MAX_REF = 100
WEIGHT = 64
"""What a message weighs beside its body while it waits for its commit."""


class Shell(Protocol):
    """What the asyncio side does for a dialogue."""

    @property
    def full(self) -> bool:
        """The client does not read as fast as we write."""

    def send(self, text: bytes) -> None:
        """One text message."""

    def send_rows(self, number: int, rows: Sequence[Row]) -> None:
        """The message `messages` of a subscription; encoded once for all dialogues that send the same."""

    def close(self, error: BrokerError) -> None:
        """End the connection after what was sent."""

    def ready(self) -> None:
        """The dialogue is not `busy` any more."""


class Subscription:
    """One subscription of a dialogue; the Line of its follower. `kind` is None when it has no name."""

    def __init__(self, dialogue: "Dialogue", number: int, kind: Kind | None) -> None:
        self._dialogue = dialogue
        self.number = number
        self.kind = kind
        self.follower: Follower

    @property
    def full(self) -> bool:
        """See Line."""
        return self._dialogue.shell.full

    def hand(self, delivery: Delivery) -> None:
        """See Line."""
        if self.kind is not Kind.QUEUE:
            self._dialogue.shell.send_rows(self.number, delivery.rows)
            return
        epoch, attempts = self._dialogue.hub.engine.epoch, delivery.attempts
        texts = [
            message_json(row, epoch, attempt=attempts.get(row[0], (0, 0))[0] + 1).encode() for row in delivery.rows
        ]
        self._dialogue.shell.send(messages_text(self.number, texts))

    def thinned(self, left_out: int, offset: int) -> None:
        """See Line."""
        position = self._dialogue.position(offset)
        self._dialogue.send("thinned", sub=self.number, left_out=left_out, position=position)

    def ended(self, error: BrokerError | None) -> None:
        """See Line."""
        self._dialogue.forget(self, error)


def messages_text(number: int, texts: Sequence[bytes]) -> bytes:
    """`{"type": "messages", …}` of messages that are JSON text already."""
    return b'{"type":"messages","sub":%d,"messages":[%b]}' % (number, b",".join(texts))


class Dialogue:
    """See the module. `max_text` is told to the client; the shell sees to it."""

    def __init__(self, hub: Hub, principal: Principal, shell: Shell, options: HttpOptions, max_text: int) -> None:
        self.hub = hub
        self.shell = shell
        self._principal = principal
        self._options = options
        self._max_text = max_text
        self._subscriptions: dict[int, Subscription] = {}
        self._uncommitted = 0
        self._closed = False
        self._handlers: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "credit": self._credit,
            "publish": self._publish,
            "settle": self._settle,
            "extend": self._extend,
            "commit": self._commit,
            "ping": self._ping,
        }

    @property
    def busy(self) -> bool:
        """So much waits for the disk that no more should be read from this client."""
        return self._uncommitted > self.hub.limits.max_uncommitted_per_connection

    # Texts out

    def greet(self) -> None:
        """The first text."""
        limits = self.hub.limits
        self.send(
            "welcome",
            epoch=self.hub.engine.epoch,
            heartbeat=self._options.heartbeat / 1000,
            max_text=self._max_text,
            max_body=limits.max_body,
            max_batch=limits.max_batch,
            max_subscriptions=limits.max_consumers_per_connection,
        )

    def send(self, kind: str, **members: Any) -> None:
        """One text to the client."""
        if not self._closed:
            self.shell.send(dumps({"type": kind, **members}).encode())

    def position(self, offset: int) -> str:
        """As text."""
        return f"{self.hub.engine.epoch}.{offset}"

    def fail(self, error: BrokerError) -> None:
        """Tell why and end."""
        if not self._closed:
            self.send("error", problem=document(error.code, error.detail))
            self.lost()
            self.shell.close(error)

    def forget(self, subscription: Subscription, error: BrokerError | None) -> None:
        """A subscription has ended; tell the client where it stands."""
        if self._subscriptions.pop(subscription.number, None) is not None:
            why = {} if error is None else {"problem": document(error.code, error.detail)}
            position = self.position(subscription.follower.position)
            where = {} if subscription.kind is Kind.QUEUE else {"position": position}
            self.send("ended", sub=subscription.number, **where, **why)

    # Of the connection

    def go_on(self) -> None:
        """The client reads again."""
        for subscription in list(self._subscriptions.values()):
            subscription.follower.go_on()

    def stalled(self) -> None:
        """The client read nothing for a while."""
        for subscription in list(self._subscriptions.values()):
            subscription.follower.stalled()

    def lost(self) -> None:
        """The connection is gone, or goes: let go of everything."""
        self._closed = True
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.follower.close()

    # Texts in

    def receive(self, text: str) -> None:
        """One text of the client's."""
        if self._closed:
            return
        try:
            request = loads(text)
        except (ValueError, RecursionError) as error:
            self.fail(BrokerError(Code.BAD_FRAME, f"not JSON: {error}"))
            return
        if type(request) is not dict or type(request.get("type")) is not str:
            self.fail(BrokerError(Code.BAD_FRAME, 'send objects {"type": …}'))
            return
        try:
            _check(request, text)
            self._handlers.get(request["type"], self._unknown)(request)
        except BrokerError as error:
            self._refuse(request, error)
        except Exception:  # ours; the client is told, and others are not harmed
            _log.exception("a WebSocket's text was not understood", extra={"type": str(request["type"])[:20]})
            self.fail(BrokerError(Code.INTERNAL))

    def _unknown(self, _: Mapping[str, Any]) -> None:
        raise BrokerError(Code.BAD_REQUEST, f"no such type; there are {', '.join(self._handlers)}")

    def _refuse(self, request: Mapping[str, Any], error: BrokerError) -> None:
        given = {name: request[name] for name in ("sub", "ref") if _is_quotable(request.get(name))}
        about = request["type"] if request["type"] in self._handlers else None
        self.send("refused", request=about, **given, problem=document(error.code, error.detail))

    # Steps 3 to 5

    def _subscribe(self, request: Mapping[str, Any]) -> None:
        _known(request, "sub", "topics", "from", "subscription", "slow", "credit")
        number = _whole(request, "sub", 0)
        if number in self._subscriptions:
            raise BrokerError(Code.BAD_REQUEST, f"sub {number} is taken; unsubscribe first")
        most = self.hub.limits.max_consumers_per_connection
        if len(self._subscriptions) >= most:
            raise BrokerError(Code.RATE_LIMITED, f"a connection has at most {most} subscriptions")
        subscription = Subscription(self, number, self._kind(request))
        slow = Slow.of(request.get("slow", Slow.WAIT))
        follower = subscription.follower = Follower(
            subscription,
            slow,
            patience=self._options.slow_after,
            wall=self.hub.wall,
            credit=_whole(request, "credit", 0) if "credit" in request else UNLIMITED,
        )
        attachment = self._attach(request, subscription)
        self._subscriptions[number] = subscription
        self.send("start", sub=number, **self._start(request, subscription, attachment))
        follower.begin(attachment)

    def _kind(self, request: Mapping[str, Any]) -> Kind | None:
        name = request.get("subscription")
        if name is None:
            return None
        if type(name) is not str:
            raise BrokerError(Code.BAD_REQUEST, "a subscription is named by text")
        kind = self.hub.subscription(self._principal, name).spec.kind
        if "from" in request:
            raise BrokerError(Code.BAD_OPTION, "a named subscription goes on from where it stands; leave out from")
        if kind is Kind.QUEUE and ("slow" in request or "topics" in request or "credit" not in request):
            raise BrokerError(Code.BAD_OPTION, "a queue takes credit (how many messages at a time), no slow, no topics")
        return kind

    def _attach(self, request: Mapping[str, Any], subscription: Subscription) -> Attachment:
        topics = request.get("topics", ())
        if not isinstance(topics, (list, tuple)) or not all(type(text) is str for text in topics):
            raise BrokerError(Code.BAD_FILTER, "topics is a list of filters")
        if subscription.kind is not None:
            return self.hub.attach(self._principal, request["subscription"], subscription.follower, topics)
        start = Start.parse(request["from"]) if "from" in request else LATEST
        return self.hub.follow(self._principal, topics, start, subscription.follower)

    def _start(self, request: Mapping[str, Any], subscription: Subscription, attachment: Attachment) -> dict[str, Any]:
        if subscription.kind is not Kind.QUEUE:
            return {"recovered": attachment.recovered, "position": self.position(attachment.position)}
        return {"lease_seconds": self.hub.engine.subscription(request["subscription"]).spec.lease / 1000}

    def _unsubscribe(self, request: Mapping[str, Any]) -> None:
        _known(request, "sub")
        self._subscription(request).follower.end()

    def _credit(self, request: Mapping[str, Any]) -> None:
        _known(request, "sub", "messages")
        messages = _whole(request, "messages", 1)
        self._subscription(request).follower.grant(messages)

    def _settle(self, request: Mapping[str, Any]) -> None:
        _known(request, "sub", "outcome", "offsets", "delay", "error")
        outcome = OUTCOMES.get(str(request.get("outcome")))
        if outcome is None:
            raise BrokerError(Code.BAD_OPTION, f"outcome must be {', '.join(OUTCOMES)}")
        delay, error = settle_options(outcome, request)
        offsets = self._offsets(request)
        follower = self._subscription(request, Kind.QUEUE).follower
        self._answer_after_commit(request, "settled", lost=list(follower.settle(outcome, offsets, delay, error)))

    def _extend(self, request: Mapping[str, Any]) -> None:
        _known(request, "sub", "offsets", "duration")
        duration, offsets = lease_of(request), self._offsets(request)
        lost = self._subscription(request, Kind.QUEUE).follower.extend(offsets, duration)
        if "ref" in request:
            self.send("extended", ref=request["ref"], lost=list(lost))

    def _commit(self, request: Mapping[str, Any]) -> None:
        _known(request, "sub", "position")
        text = request.get("position")
        if type(text) is not str:
            raise BrokerError(Code.BAD_POSITION, "send the position of the last message that is done")
        position = Position.parse(text)
        if position.epoch != self.hub.engine.epoch:
            raise BrokerError(Code.BAD_POSITION, f"{text!r} is of another log")
        self._subscription(request, Kind.STREAM).follower.settle(Outcome.ACK, [position.offset])
        self._answer_after_commit(request, "committed")

    def _subscription(self, request: Mapping[str, Any], kind: Kind | None = None) -> Subscription:
        number = _whole(request, "sub", 0)
        subscription = self._subscriptions.get(number)
        if subscription is None:
            raise BrokerError(Code.NOT_FOUND, f"there is no sub {number}, or no more")
        if kind is not None and subscription.kind is not kind:
            raise BrokerError(Code.WRONG_KIND, f"sub {number} is no {kind} subscription")
        return subscription

    def _offsets(self, request: Mapping[str, Any]) -> list[int]:
        offsets = request.get("offsets")
        most = self.hub.limits.max_batch
        if type(offsets) is not list or not 0 < len(offsets) <= most:
            raise BrokerError(Code.BAD_REQUEST, f"offsets is a list of 1 to {most} offsets")
        if not all(type(offset) is int and 0 <= offset < 1 << 63 for offset in offsets):
            raise BrokerError(Code.BAD_REQUEST, "an offset is a whole number, 0 or more")
        return offsets

    # Step 1

    def _publish(self, request: Mapping[str, Any]) -> None:
        _known(request, "messages")
        if "ref" not in request:
            raise BrokerError(Code.BAD_REQUEST, "a publish has a ref, by which it is answered")
        messages, most = request.get("messages"), self.hub.limits.max_batch
        if type(messages) is not list or not 0 < len(messages) <= most:
            raise BrokerError(Code.BAD_REQUEST, f"messages is a list of 1 to {most} messages")
        prepared = self.hub.prepare(self._principal, [outgoing(m) for m in messages], sender=self)
        weight = prepared.unit.size + WEIGHT * len(messages)

        def done(receipt: Receipt) -> None:
            self._committed(weight)
            if receipt.error is not None:
                self._refuse(request, receipt.error)
                return
            receipts = b",".join(map(receipt_json, prepared.published(receipt)))
            if not self._closed:
                self.shell.send(b'{"type":"published","ref":%b,"receipts":[%b]}' % (_text(request["ref"]), receipts))

        self._hand_in(prepared.unit, weight, done)

    def _answer_after_commit(self, request: Mapping[str, Any], kind: str, **members: Any) -> None:
        """An empty unit follows what was settled to the disk. Who gave no ref wants no answer."""
        if "ref" not in request:
            return

        def done(receipt: Receipt) -> None:
            self._committed(WEIGHT)
            if receipt.error is None:
                self.send(kind, ref=request["ref"], **members)
            else:
                self._refuse(request, receipt.error)

        self._hand_in(Unit(sender=self), WEIGHT, done)

    def _hand_in(self, unit: Unit, weight: int, done: Callable[[Receipt], None]) -> None:
        unit.done = done
        self.hub.commit(unit)
        self._uncommitted += weight

    def _committed(self, weight: int) -> None:
        was_busy = self.busy
        self._uncommitted -= weight
        if was_busy and not self.busy:
            self.shell.ready()

    def _ping(self, request: Mapping[str, Any]) -> None:
        _known(request)
        self.send("pong", **({"ref": request["ref"]} if "ref" in request else {}))


def _text(value: object) -> bytes:
    return dumps(value).encode()


def _check(request: Mapping[str, Any], text: str) -> None:
    """What is asked of every request."""
    try:
        check_sayable(request, text)
    except ValueError:
        raise BrokerError(Code.BAD_REQUEST, "it holds half of a surrogate pair, which UTF-8 cannot say") from None
    if "ref" in request and not _is_quotable(request["ref"]):
        raise BrokerError(Code.BAD_REQUEST, f"a ref is a whole number or an ASCII text of at most {MAX_REF}")


def _is_quotable(value: object) -> bool:
    """May it be said back to the client?"""
    if type(value) is int:
        return abs(value) <= MAX_NUMBER
    return type(value) is str and len(value) <= MAX_REF and value.isascii()


def _known(request: Mapping[str, Any], *names: str) -> None:
    """Raises BAD_OPTION for a member that this type does not have."""
    allowed = {"type", "ref", *names}
    if unknown := set(request) - allowed:
        raise BrokerError(Code.BAD_OPTION, f"no member {min(unknown)!r}; there are {', '.join(sorted(allowed))}")


def _whole(request: Mapping[str, Any], name: str, low: int) -> int:
    value = request.get(name)
    if type(value) is not int or not low <= value <= MAX_NUMBER:
        raise BrokerError(Code.BAD_REQUEST, f"{name} must be a whole number, {low} or more")
    return value
