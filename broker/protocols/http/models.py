"""The shapes of what goes in and out as JSON: read by the requests that come often, and the schemas of the reference.

What is written out often (messages, receipts) is written by `representation`, which keeps to these. Floor 4.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes typing's only from Python 3.12 on

from broker.core.errors import Code

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""An RFC 3339 time in UTC."""
Span = Annotated[
    int | float | str,
    Field(description="Seconds, or a text such as `500ms`, `30s`, `5m`, `2h`, `7d`.", examples=["5m"]),
]
Position = Annotated[str, Field(description="A place in the log, opaque: go on after it with `from`.")]
Key = Annotated[str, Field(min_length=1, max_length=255)]


class Shape(BaseModel):
    """What is answered: other members may come in later versions."""

    model_config = ConfigDict(extra="allow")


class Given(BaseModel):
    """What is sent: a member that is not known is refused, it might be a misspelt one."""

    model_config = ConfigDict(extra="forbid")


class Problem(Shape):
    """A refusal (RFC 9457). `code` is stable and for programs, `title` and `detail` say to people what to do."""

    type: str
    title: str
    status: int
    code: Literal[tuple(code.value for code in Code)]  # type: ignore[valid-type]
    detail: str = ""


# Messages


class Message(Shape):
    """A message as readers see it. Exactly one of `body` and `body_base64` is there: `body` is a JSON value when the
    content type is JSON (as it was published, byte for byte), a text when it is a text type."""

    id: str
    offset: int
    position: Position
    topic: str
    key: str | None
    headers: dict[str, str]
    content_type: str | None
    priority: Annotated[int, Field(ge=0, le=9)]
    published_at: Moment
    expires_at: Moment | None = None
    history: list[dict[str, Any]] = Field([], description="Of a dead letter: what went wrong, and when.")
    source: dict[str, Any] | None = Field(None, description="Of a dead letter: queue, reason and first offset.")
    body: Any = None
    body_base64: str = ""


class Received(Message):
    """A message in a worker's hand."""

    attempt: Annotated[int, Field(ge=1)]
    receipt: Annotated[str, Field(description="Settle or extend the lease by it.")]


class Receipt(Shape):
    """The message is on disk. `duplicate`: its id was known, and `offset` is the first one's. A delayed message has
    neither offset nor position yet, and says when it is `due`. One to a topic of durability `memory` never has, for it
    is in no log: it was shown to who listened; its `id` is null unless its publisher gave one."""

    id: str | None
    offset: int | None
    position: Position | None
    duplicate: bool
    due: Moment | None = None


class Receipts(Shape):
    """Of a batch, in its order."""

    receipts: list[Receipt]


class Page(Shape):
    """A piece of the log. `next`: go on with `from` there. `recovered: false`: reading could not begin where it was
    asked to; what was between is gone, or the log is another one."""

    messages: list[Message]
    next: Position
    recovered: bool


class Peeked(Shape):
    """The oldest outstanding messages."""

    messages: list[Message]


class ReceivedMessages(Shape):
    """Leased until `lease_seconds` from now, unless settled or extended."""

    messages: list[Received]
    lease_seconds: float


class Item(TypedDict):
    """One message of a batch. `body` is a JSON value, stored in compact form; or a text when `content_type` is none of
    JSON's. It is `application/json` when it is not given. What must arrive byte for byte goes as
    `body_base64`; one of both must be there. `due` is a time, `delay` a span; give one of them or none."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    topic: Annotated[str, Field(min_length=1, examples=["orders/created"])]
    body: NotRequired[Any]
    body_base64: NotRequired[str]
    id: NotRequired[Key]
    key: NotRequired[Key]
    headers: NotRequired[dict[str, str]]
    content_type: NotRequired[Key]
    priority: NotRequired[Annotated[int, Field(ge=0, le=9)]]
    ttl: NotRequired[Span]
    delay: NotRequired[Span]
    due: NotRequired[Moment]


# Queues


class SettleItem(Given):
    """`delay` goes with `retry`, `duration` with `extend`; `error` enters the message's history."""

    receipt: str
    outcome: Literal["ack", "retry", "reject", "release", "extend"]
    delay: Span | None = None
    error: str | None = None
    duration: Span | None = None


class SettleResult(Shape):
    """What became of one item."""

    receipt: Any
    ok: bool
    problem: Problem | None = None


class SettleResults(Shape):
    """In the order of the items."""

    results: list[SettleResult]


class Count(Shape):
    """How many messages it was done to."""

    count: int


# Subscriptions


class Retry(Given):
    """After a failed attempt: `initial` times `factor` each time, at most `cap`, spread by `jitter`; or `schedule`.
    After `max_attempts` it is a dead letter."""

    initial: Span = "1s"
    factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    cap: Span = "5m"
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_attempts: Annotated[int, Field(ge=1)] = 10
    schedule: Annotated[list[Span], Field(max_length=100)] = []


class Settings(BaseModel):
    """A queue or a stream. What is left out gets its default, also when the subscription exists. What a GET answered
    may be sent back: counts in it are passed over."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["queue", "stream"] = "queue"
    topics: Annotated[list[str], Field(min_length=1, max_length=100, examples=[["orders/#"]])]
    from_: Annotated[
        str | int | None, Field(alias="from", description="Where a new one begins; `latest` if absent.")
    ] = None
    lease: Span | None = None
    retry: Retry | None = None
    ordered: bool = False
    fair: bool = False
    single_active: bool = False
    max_messages: Annotated[int, Field(ge=1)] | None = None
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    overflow: Annotated[
        Literal["refuse", "block", "drop_oldest"] | None,
        Field(description="At its cap: refuse publishers, let them wait some seconds first, or drop the oldest."),
    ] = None
    max_deliveries: Annotated[int, Field(ge=1)] | None = None
    webhook: dict[str, Any] | None = None


class Subscription(Shape):
    """Settings, and how many messages are where. `oldest_at`: when the oldest outstanding message was published."""

    name: str
    kind: Literal["queue", "stream"]
    topics: list[str]
    paused: bool
    floor: int
    lag: int
    ready: int
    leased: int
    delayed: int
    blocked: int
    consumers: int
    oldest_at: Moment | None
    dead_letters: int
    acked: int
    retried: int
    dead: int
    expired: int
    dropped: int
    leases_expired: int


class Subscriptions(Shape):
    """By name."""

    subscriptions: list[Subscription]
    next: str | None


class Secret(Shape):
    """What the receiver of webhooks checks them by."""

    secret: str


# The rest


class Topic(Shape):
    """Messages and bytes of bodies that are still in the log."""

    name: str
    messages: int
    bytes: int


class Topics(Shape):
    """By name."""

    topics: list[Topic]
    next: str | None


class Waiting(Shape):
    """A message that waits for its time."""

    id: str
    due: Moment
    topic: str


class Scheduled(Shape):
    """Soonest first."""

    scheduled: list[Waiting]


class Alive(Shape):
    """The loop runs."""

    status: str


class Ready(Shape):
    """Whether messages are taken, or at least handed out, and why not."""

    status: str
    state: str
    reason: str


class Felt(Shape):
    """A limit that was run into lately: its name in the configuration, by whom, for how long and how often."""

    limit: str
    who: str
    detail: str
    seconds: float
    times: int


class LimitsNow(Shape):
    """Which limits are felt now, and how many connections that publish are slowed by one."""

    in_force: list[Felt]
    publishers_blocked: int
    uncommitted_bytes: int


class Status(Shape):
    """The broker in numbers."""

    version: str
    uptime_seconds: float
    state: str
    reason: str
    epoch: str
    next_offset: int
    limits: LimitsNow
    not_taken_up: Annotated[
        list[str], Field(description="What the last reload of the configuration left as it was, and why.")
    ] = []


class Keys(Shape):
    """Sorted."""

    keys: list[str]
    next: str | None


class Revision(Shape):
    """Revisions rise over all keys."""

    key: str
    revision: int


class KeyWrite(TypedDict):
    """Write a text (`value`) or bytes (`value_base64`); `value: null` deletes. `expect`: the revision that the key must
    have, 0: it must be absent."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    key: Annotated[str, Field(min_length=1, max_length=512)]
    value: NotRequired[str | None]
    value_base64: NotRequired[str]
    expect: NotRequired[Annotated[int, Field(ge=0)]]


class UnitSettle(TypedDict):
    """As an item of `settle`, of any queue."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    queue: Annotated[str, Field(min_length=1)]
    receipt: str
    outcome: Literal["ack", "retry", "reject", "release"]
    delay: NotRequired[Span]
    error: NotRequired[str]


class Work(TypedDict):
    """What is done together or not at all."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    publish: NotRequired[list[Item]]
    settle: NotRequired[list[UnitSettle]]
    set: NotRequired[list[KeyWrite]]


class Done(Shape):
    """Receipts in the order of `publish`, revisions in that of `set`."""

    receipts: list[Receipt]
    revisions: list[int]


class Cursor(Shape):
    """Everything up to `position` is done; `lag` offsets are behind it."""

    position: Position
    lag: int


class CursorMove(Given):
    """Where it shall stand."""

    position: Position


class Connection(Shape):
    """`client` is the name that it gave itself; `how` says by what it proved who it is: `token 5f0c…`, `password`, …"""

    id: str
    door: str
    address: str
    port: int
    principal: str | None
    client: str
    how: str | None
    since: Moment


class Connections(Shape):
    """Oldest first."""

    connections: list[Connection]
    next: str | None


class Deleted(Shape):
    """How many."""

    deleted: int
