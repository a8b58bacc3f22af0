"""A consumer and its attachment in one, so that whoever let the reader in can end it. Floor 2."""

from collections.abc import Callable, Sequence

from broker.core.errors import BrokerError
from broker.core.subscription import Consumer, Delivery, Outcome
from broker.engine.base import Attachment


class Reader:
    """A Consumer towards the engine, an Attachment towards the door."""

    def __init__(self, consumer: Consumer) -> None:
        self.deliver: Callable[[Delivery], None] = consumer.deliver
        self._consumer = consumer
        self._open = True
        self._attachment: Attachment
        self._left: Callable[[], None]

    def bind(self, attachment: Attachment, left: Callable[[], None]) -> None:
        """The engine's end. `left` is called once, when the tie ends, whoever ends it."""
        self._attachment, self._left = attachment, left
        self.recovered, self.position = attachment.recovered, attachment.position

    @property
    def skipped(self) -> int:
        """See Attachment."""
        return self._attachment.skipped

    def end(self, error: BrokerError) -> None:
        """Detach and tell the consumer why: nothing more is delivered."""
        if self._open:
            self._attachment.detach()
            self.detached(error)

    def detached(self, error: BrokerError) -> None:
        """See Consumer."""
        if self._close():
            self._consumer.detached(error)

    def refilter(self, filters: Sequence[str]) -> None:
        """See Attachment."""
        self._attachment.refilter(filters)

    def detach(self, *, lost: bool = False) -> None:
        """See Attachment."""
        if self._close():
            self._attachment.detach(lost=lost)

    def _close(self) -> bool:
        was, self._open = self._open, False
        if was:
            self._left()
        return was

    def grant(self, messages: int, size: int) -> None:
        """See Attachment."""
        self._attachment.grant(messages, size)

    def settle(
        self, outcome: Outcome, offsets: Sequence[int], delay: int | None = None, error: str | None = None
    ) -> Sequence[int]:
        """See Attachment."""
        return self._attachment.settle(outcome, offsets, delay, error)

    def extend(self, offsets: Sequence[int], duration: int) -> Sequence[int]:
        """See Attachment."""
        return self._attachment.extend(offsets, duration)

    def started(self, offsets: Sequence[int]) -> None:
        """See Attachment."""
        self._attachment.started(offsets)

    def held(self, offset: int) -> int | None:
        """See Attachment."""
        return self._attachment.held(offset)
