"""What both kinds of subscription share: the settings, the outcomes, and the words between machine and consumer.

Floor 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from broker.core.errors import BrokerError
from broker.core.message import Row
from broker.core.position import LATEST, Start
from broker.core.retry import RetryPolicy


class Kind(StrEnum):
    """`queue`: competing consumers, each message settled on its own. `stream`: an ordered, replayable cursor."""

    QUEUE = "queue"
    STREAM = "stream"


class Outcome(StrEnum):
    """What ends a lease. Only `retry` (and a lease that runs out) counts as a failed attempt."""

    ACK = "ack"
    RETRY = "retry"
    REJECT = "reject"
    RELEASE = "release"


class Overflow(StrEnum):
    """What a queue at its cap does: `refuse` the publisher, `block` it for some seconds and then refuse, or
    `drop_oldest` of what no consumer has in hand, be it ready, delayed or behind its key (settled as dropped, and
    counted)."""

    REFUSE = "refuse"
    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"


@dataclass(frozen=True, slots=True)
class Spec:
    """The settings of a subscription, as its owner wrote them. Durations are milliseconds.

    `ordered`: messages of one key are handed out one after the other. `fair`: keys take turns. `single_active`: one
    consumer at a time, the others stand by. `max_deliveries` caps deliveries that ended in a lost worker. `sink` is
    read by the connector that takes messages out by itself (`{"url": …}` is a webhook).
    """

    name: str
    kind: Kind
    topics: tuple[str, ...]
    start: Start = LATEST
    lease: int = 30_000
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_deliveries: int = 20
    ordered: bool = False
    fair: bool = False
    single_active: bool = False
    max_messages: int | None = None
    max_bytes: int | None = None
    overflow: Overflow = Overflow.REFUSE
    sink: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Delivery:
    """What a consumer is handed at most once per commit.

    `lease` numbers this hand-over; a settle quotes it so that a late one is told from a current one. `attempts` holds
    (failed attempts so far, deliveries so far) for the messages that were delivered before; absent means (0, 0).
    """

    rows: Sequence[Row]
    lease: int = 0
    attempts: Mapping[int, tuple[int, int]] = field(default_factory=dict)


class Consumer(Protocol):
    """A live reader. Both calls come from the loop's thread and must not block or raise."""

    def deliver(self, delivery: Delivery) -> None:
        """Take these messages; credit was taken for them."""

    def detached(self, error: BrokerError) -> None:
        """The engine let go of this consumer (subscription deleted, reader too slow, shutdown)."""
