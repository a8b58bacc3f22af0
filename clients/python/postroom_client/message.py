"""A message as a reader has it: cheap to make, its options unpacked only when asked for.

What ends it (`ack`, `retry`, `reject`, `release`) takes effect at once in the client and leaves with all others of
the same turn of the loop. These calls belong to the loop's thread; plain functions get a `ThreadMessage` instead.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgpack

from postroom_client.body import Decoder, decode_body, decode_with
from postroom_client.errors import Reject, Retry
from postroom_client.identity import made_id

if TYPE_CHECKING:
    from postroom_client.consumer import Consumer
    from postroom_client.receipt import Receipt

Row = tuple[int, str, int, bytes | None, bytes]
"""(offset, topic, published_at in unix ms, meta, body)"""


class LoggedMessage:
    """What was published: a row of the log, as `read`, `peek`, `stream` and `tap` give it. `offset` is 0 for what a tap
    sees of topics of durability `memory`: it is in no log."""

    __slots__ = ("_decoder", "_epoch", "_meta", "_row", "offset", "recovered")

    def __init__(self, row: Row, epoch: str, decoder: Decoder | None = None, *, recovered: bool = True) -> None:
        self._row = row
        self._epoch = epoch
        self._decoder = decoder
        self._meta: dict[str, Any] | None = None
        self.offset = row[0]
        self.recovered = recovered

    @property
    def body(self) -> bytes:
        """The bytes that were published."""
        return self._row[4]

    @property
    def data(self) -> Any:
        """The body through the reader's decoder, else by content type: JSON's value, text, or bytes.

        Raises DecodeFailed."""
        if self._decoder is not None:
            return decode_with(self._decoder, self._row[4])
        return decode_body(self._row[4], self.content_type)

    @property
    def topic(self) -> str:
        """Where it was first published."""
        topic: str = self.meta.get("topic") or self._row[1] if self._row[3] else self._row[1]
        return topic

    @property
    def published_at(self) -> int:
        """Unix milliseconds."""
        return self._row[2]

    @property
    def meta(self) -> dict[str, Any]:
        """What its publisher gave beside topic and body (PROTOCOL.md, *Messages*)."""
        if self._meta is None:
            packed = self._row[3]
            self._meta = msgpack.unpackb(memoryview(packed)[1:]) if packed else {}
        return self._meta

    @property
    def id(self) -> str | None:
        """Its publisher's id for it, else the one computed from its place; None when it has neither."""
        given: str | None = self.meta.get("id")
        return given or (made_id(self._epoch, self.offset, self._row[2]) if self.offset else None)

    @property
    def position(self) -> str | None:
        """Keep this to read on after this message. None for one that is in no log."""
        return f"{self._epoch}.{self.offset}" if self.offset else None

    @property
    def key(self) -> str | None:
        """The key that orders or groups it."""
        return self.meta.get("key")

    @property
    def headers(self) -> dict[str, str]:
        """Names and texts; empty when there are none."""
        return self.meta.get("headers") or {}

    @property
    def content_type(self) -> str | None:
        """How to read the body; None: bytes."""
        return self.meta.get("content_type") if self._row[3] else None

    @property
    def priority(self) -> int:
        """0 to 9, 9 goes first."""
        priority: int = self.meta.get("priority", 0)
        return priority

    @property
    def expires_at(self) -> int | None:
        """Unix milliseconds, or None: it does not expire."""
        return self.meta.get("expires_at")

    @property
    def history(self) -> list[dict[str, Any]]:
        """Of a dead letter: how each attempt failed."""
        return self.meta.get("history") or []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.offset} {self.topic!r} {len(self.body)} bytes>"


class Message(LoggedMessage):
    """A message of a queue, in hand until it is settled; its lease is prolonged by itself meanwhile.

    `async with message:` acks at its end; on an exception it asks for a retry with the error's text, on cancellation it
    releases, and the exception goes on. `attempts`: how often it has failed before.
    """

    __slots__ = ("attempts", "consumer", "deliveries", "tenure")

    def __init__(self, row: Row, consumer: "Consumer", attempts: tuple[int, int] = (0, 0), tenure: int = 0) -> None:
        self._row = row
        self._epoch = consumer.epoch
        self._decoder = consumer.decoder
        self._meta = None
        self.offset = row[0]
        self.recovered = True
        self.consumer = consumer
        self.attempts, self.deliveries = attempts
        self.tenure = tenure

    @property
    def attempt(self) -> int:
        """1 when it has never failed."""
        return self.attempts + 1

    @property
    def in_hand(self) -> bool:
        """Is it still to be settled?"""
        return self.consumer.inbox.holds(self)

    def ack(self) -> None:
        """It is done. Raises LeaseLost when it was settled before."""
        self.consumer.settle(self, "ack")

    def retry(self, delay: float | None = None, error: str | None = None) -> None:
        """It failed: again in `delay` seconds, or as the queue's retry policy says. Counts as an attempt."""
        self.consumer.settle(self, "retry", delay, error)

    def reject(self, error: str | None = None) -> None:
        """It will never succeed: to the dead letters."""
        self.consumer.settle(self, "reject", None, error)

    def release(self) -> None:
        """Not now, not me: ready again at once, without counting an attempt."""
        self.consumer.settle(self, "release")

    async def settle(self, outcome: str, *, delay: float | None = None, error: str | None = None) -> None:
        """Settle and wait until that is committed. `outcome`: ack, retry, reject, release.

        Raises LeaseLost when it came too late, ConnectionLost when it is unknown whether it did."""
        await self.consumer.settle_durably(self, outcome, delay, error)

    def extend(self, seconds: float) -> None:
        """Hold it for so long from now, whatever the queue's lease; needed only beyond what happens by itself."""
        self.consumer.extend(self, seconds)

    async def reply(self, body: Any, **options: Any) -> "Receipt":
        """Answer a `request`: publishes to the topic in the header `reply-to`. Raises ValueError without one."""
        headers = self.headers
        if "reply-to" not in headers:
            raise ValueError("the message asks for no reply: it has no header reply-to")
        if "correlation-id" in headers:
            options.setdefault("headers", {"correlation-id": headers["correlation-id"]})
        return await self.consumer.publish(headers["reply-to"], body, **options)

    def end(self, error: BaseException | None) -> None:
        """Settle by how the work ended, unless that was done: no error acks, an error retries, being stopped
        releases, and `Retry` and `Reject` mean what they say."""
        if not self.in_hand:
            return
        if error is None:
            self.ack()
        elif isinstance(error, Reject):
            self.reject(str(error) or None)
        elif isinstance(error, Retry):
            self.retry(error.delay, str(error) or None)
        elif isinstance(error, Exception):
            self.retry(None, f"{type(error).__name__}: {error}"[:2000])
        else:
            self.release()

    async def __aenter__(self) -> "Message":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)
