"""A live reader of a queue: the asyncio side of an `Inbox`. Tasks take messages from it; each is woken only when there
is something for it, and one wakes the next, so that a fast one works off a whole delivery alone."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from postroom_client import wire
from postroom_client.body import Decoder
from postroom_client.errors import LeaseLost, PostroomError
from postroom_client.inbox import Inbox, Reason, settle_frame
from postroom_client.message import Message, Row
from postroom_client.waiting import Line

if TYPE_CHECKING:
    from postroom_client.connection import Connection
    from postroom_client.receipt import Receipt

Publish = Callable[..., Coroutine[Any, Any, "Receipt"]]


class Consumer:
    """Attached to `subscription` until `close`. `error`: why it ended by itself."""

    def __init__(
        self,
        connection: "Connection",
        subscription: str,
        inbox: Inbox,
        publish: Publish,
        decoder: Decoder | None = None,
    ) -> None:
        self.connection = connection
        self.subscription = subscription
        self.inbox = inbox
        self.number = inbox.number
        self.publish = publish
        self.decoder = decoder
        self.epoch = connection.outbox.epoch
        self.error: PostroomError | None = None
        self.lease = 0.0
        self._loop = asyncio.get_running_loop()
        self._takers = Line()
        self._settled = Line()
        self._leaving = False
        self._extension: asyncio.TimerHandle | None = None

    # What the connection calls

    def attach_frame(self) -> tuple[Any, ...]:
        """ATTACH, without credit yet: what was settled meanwhile is told before anything is delivered."""
        return (wire.ATTACH, self.number, self.subscription, {"credit": 0, "bytes": 0})

    def attached(self, info: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """ATTACHED: what to send first."""
        now = self._loop.time()
        self.lease = (info.get("lease") or 30_000) / 1000
        self._cancel_extension()
        self._extension = self._loop.call_later(self.lease / 3, self._extend_all)
        opening = self.inbox.opening(now)
        frames = self.inbox.frames(now)
        return frames if self.inbox.closing else [*frames, opening]

    def delivered(self, rows: Sequence[Row], tries: Mapping[int, tuple[int, int]] | None) -> None:
        """DELIVER."""
        self.inbox.deliver(rows, tries)
        self.connection.write_soon(self)
        self._wake()

    def detached(self, error: PostroomError) -> bool:
        """It is no more. Whoever waits for a message is told why."""
        self.error = error
        self.inbox.lost()
        self._cancel_extension()
        self._takers.wake_all()
        self._settled.wake_all()
        return False

    def lost(self, epoch_changed: bool = False) -> None:
        """The connection broke, or came back on another log."""
        if epoch_changed:
            self.inbox.renewed()
        else:
            self.inbox.lost()
        self._cancel_extension()
        self.epoch = self.connection.outbox.epoch
        self._note_settled()

    @property
    def busy(self) -> bool:
        """Is something in hand?"""
        return self.inbox.in_hand > 0

    def pause(self) -> None:
        """The broker is stopping: begin nothing more on this connection."""
        self.inbox.pause()

    def frames(self, now: float) -> list[tuple[Any, ...]]:
        """What to tell the broker. What is announced in it may begin in the loop's next turn."""
        frames = self.inbox.frames(now)
        self._takers.wake(self.inbox.cleared)
        return frames

    # Taking

    async def take(self) -> Message | None:
        """The next message, in hand from now on; None once the consumer closes. Raises why it ended by itself."""
        inbox = self.inbox
        while not inbox.cleared:
            if inbox.waiting:
                if inbox.announce(self._loop.time()):
                    self.connection.write_soon(self)  # work begins when the report is written: `frames` wakes us
            elif self.error is not None:
                raise self.error
            elif inbox.closing:
                return None
            await self._takers.wait()
        message = inbox.take(self)
        if self._takers and inbox.waiting:
            self._wake()
        return message

    def _wake(self) -> None:
        if self.inbox.waiting:
            self._takers.wake(1)

    # Settling

    def settle(self, message: Message, outcome: str, delay: float | None = None, error: str | None = None) -> None:
        """Ends the message; leaves with the others of this turn."""
        if outcome == "ack":
            self.inbox.ack(message)
        else:
            self.inbox.settle(message, _reason(outcome, delay, error))
        self.connection.write_soon(self)
        if self.inbox.closing:
            self._note_settled()

    async def settle_durably(self, message: Message, outcome: str, delay: float | None, error: str | None) -> None:
        """The same, and wait for the commit."""
        reason = _reason(outcome, delay, error)
        self.inbox.drop(message)
        self._note_settled()
        self.connection.write_soon(self)
        late = await self.connection.requests.ask(
            lambda request: settle_frame(self.number, reason, [message.offset], request)
        )
        if late and message.offset in late:
            raise LeaseLost("the lease had ended: the message was settled, given back or leased anew")

    def surrender(self, message: Message) -> None:
        """A transaction has settled it."""
        self.inbox.drop(message)
        self._note_settled()
        self.connection.write_soon(self)

    def extend(self, message: Message, seconds: float) -> None:
        """Prolong one lease."""
        if not self.inbox.holds(message):
            raise LeaseLost("the message has been settled already")
        self.connection.send((wire.EXTEND, self.number, [message.offset], int(seconds * 1000)))

    def _extend_all(self) -> None:
        leased = self.inbox.leased()
        if leased:
            self.connection.send((wire.EXTEND, self.number, leased, int(self.lease * 1000)))
        self._extension = self._loop.call_later(self.lease / 3, self._extend_all)

    def _cancel_extension(self) -> None:
        if self._extension is not None:
            self._extension.cancel()
            self._extension = None

    # The end

    def quiet(self) -> None:
        """Take no more: what nobody has begun is released, those who wait for a message are told None."""
        if not self.inbox.closing:
            self.inbox.close()
            self.connection.write_soon(self)
            self._takers.wake_all()
            self._note_settled()

    async def settled(self) -> None:
        """Wait until nothing is in hand."""
        while self.inbox.in_hand and self.error is None:
            await self._settled.wait()

    def _note_settled(self) -> None:
        if self.inbox.in_hand:
            return
        self._settled.wake_all()
        if self._leaving:
            self._leaving = False
            self._cancel_extension()
            self.connection.readers.forget(self.number)

    async def close(self) -> None:
        """Quiet, then go: what is still in hand becomes ready again for others."""
        self.quiet()
        self._cancel_extension()
        await self.connection.readers.detach(self)

    def leave_when_settled(self) -> None:
        """Nobody takes messages any more: quiet now, and go once nothing is in hand."""
        self.quiet()
        self._leaving = True
        self._note_settled()


def _reason(outcome: str, delay: float | None, error: str | None) -> Reason:
    if outcome not in ("ack", "retry", "reject", "release"):
        raise ValueError(f"no outcome {outcome!r}; there are ack, retry, reject, release")
    return outcome, None if delay is None else max(0, int(delay * 1000)), error
