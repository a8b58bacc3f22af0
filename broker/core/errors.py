"""The one table of errors: what every door says, in its own tongue, when something is refused.

A code is stable and machine-readable; the sentence tells a person what to do. Whose fault it is and whether the
connection must close follow from the kind, so that no door decides that for itself. Floor 0.
"""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Kind:
    """How one code is told: sentence for people, HTTP status (RFC 9110), MQTT 5 reason (§2.4), whether it ends the
    connection it happened on; and, where it says nothing about what was asked and will pass, after how many seconds
    it makes sense to ask `again`."""

    sentence: str
    http: int
    mqtt: int
    closes: bool = False
    again: int | None = None


class Code(Enum):
    """Every error that Postroom answers with; the value is the code on the wire."""

    BAD_FRAME = "bad_frame"
    FRAME_TOO_LARGE = "frame_too_large"
    UNSUPPORTED_VERSION = "unsupported_version"
    NOT_GREETED = "not_greeted"
    MESSAGE_TOO_LARGE = "message_too_large"
    BAD_MESSAGE = "bad_message"
    BAD_TOPIC = "bad_topic"
    BAD_FILTER = "bad_filter"
    BAD_POSITION = "bad_position"
    BAD_REQUEST = "bad_request"
    BAD_OPTION = "bad_option"
    CONTRACT_BROKEN = "contract_broken"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    UNKNOWN_SUBSCRIPTION = "unknown_subscription"
    WRONG_KIND = "wrong_kind"
    CONFLICT = "conflict"
    CONDITION_FAILED = "condition_failed"
    LEASE_LOST = "lease_lost"
    QUEUE_FULL = "queue_full"
    QUOTA_EXCEEDED = "quota_exceeded"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    DISK_LOW = "disk_low"
    UNSUPPORTED = "unsupported"
    SLOW_READER = "slow_reader"
    DISMISSED = "dismissed"
    TIMEOUT = "timeout"
    SHUTTING_DOWN = "shutting_down"
    STORAGE_FAILED = "storage_failed"
    INTERNAL = "internal"


KINDS: dict[Code, Kind] = {
    Code.BAD_FRAME: Kind("Not a frame of this protocol; see PROTOCOL.md or STREAM.md.", 400, 0x81, closes=True),
    Code.FRAME_TOO_LARGE: Kind("The frame is over the limit; send smaller batches.", 413, 0x95, closes=True),
    Code.UNSUPPORTED_VERSION: Kind("No protocol version in common; upgrade the older side.", 400, 0x84, closes=True),
    Code.NOT_GREETED: Kind("The first frame must be HELLO.", 400, 0x82, closes=True),
    Code.MESSAGE_TOO_LARGE: Kind("The body is over the limit; send a link to it instead.", 413, 0x95),
    Code.BAD_MESSAGE: Kind("The message is not well formed.", 400, 0x99),
    Code.BAD_TOPIC: Kind("Not a topic name: levels joined by '/', no '+', '#' or NUL, UTF-8.", 400, 0x90),
    Code.BAD_FILTER: Kind("Not a topic filter: '+' and '#' stand for whole levels, '#' only at the end.", 400, 0x8F),
    Code.BAD_POSITION: Kind("Not a position: earliest, latest, an offset, a position or an RFC 3339 time.", 400, 0x83),
    Code.BAD_REQUEST: Kind("The request is not well formed.", 400, 0x83),
    Code.BAD_OPTION: Kind("An option is unknown or its value does not fit.", 400, 0x83),
    Code.CONTRACT_BROKEN: Kind("The message does not keep the topic's contract.", 422, 0x99),
    Code.UNAUTHENTICATED: Kind("Say who you are: a token is missing, wrong or expired.", 401, 0x87, closes=True),
    Code.FORBIDDEN: Kind("Not allowed.", 403, 0x87),
    Code.NOT_FOUND: Kind("There is no such thing here.", 404, 0x83),
    Code.UNKNOWN_SUBSCRIPTION: Kind("There is no subscription of that name; create it first.", 404, 0x83),
    Code.WRONG_KIND: Kind("The subscription is of the other kind (queue or stream).", 409, 0x83),
    Code.CONFLICT: Kind("It exists with other settings; delete it or send the same ones.", 409, 0x83),
    Code.CONDITION_FAILED: Kind("A condition of the unit did not hold; nothing of it was done.", 412, 0x83),
    Code.LEASE_LOST: Kind("The lease has ended: the message was settled, given back or leased anew.", 409, 0x83),
    Code.QUEUE_FULL: Kind(
        "A queue of this topic is at its cap; wait, or raise max_messages or max_bytes.", 429, 0x97, again=1
    ),
    Code.QUOTA_EXCEEDED: Kind("As much is kept for you as may be; end or delete some, or raise the limit.", 429, 0x97),
    Code.RATE_LIMITED: Kind("Too fast; wait and send again.", 429, 0x96, again=1),
    Code.OVERLOADED: Kind("The broker has as much in hand as it may; wait and send again.", 503, 0x97, again=1),
    Code.DISK_LOW: Kind("The disk is nearly full: publishing is blocked, acks go on; free space.", 503, 0x97, again=30),
    Code.UNSUPPORTED: Kind("This engine cannot do that.", 501, 0x83),
    Code.SLOW_READER: Kind("You read more slowly than allowed; resume from your position.", 503, 0x97, closes=True),
    Code.DISMISSED: Kind("An operator closed this connection; ask before you connect again.", 503, 0x98, closes=True),
    Code.TIMEOUT: Kind("It took too long; whether it happened is unknown: retry with the same id.", 504, 0x83, again=1),
    Code.SHUTTING_DOWN: Kind("The daemon is stopping; connect again in a moment.", 503, 0x8B, closes=True, again=1),
    Code.STORAGE_FAILED: Kind(
        "The disk refused a write; nothing more is confirmed: see postroom status.", 503, 0x88, again=30
    ),
    Code.INTERNAL: Kind("A fault of the broker; its log has the details.", 500, 0x80),
}


class BrokerError(Exception):
    """A refusal with a code of the table and a detail for this case. Doors translate it, none invents its own.

    `detail` names the culprit and the mend ("body is 2097152 bytes, the limit is 1048576"); `str()` gives both.
    `retry_after`: in how many seconds it makes sense to ask again, where this case knows better than its code.
    """

    def __init__(self, code: Code, detail: str = "", *, retry_after: float | None = None) -> None:
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(detail or KINDS[code].sentence)

    @property
    def kind(self) -> Kind:
        """How each door tells it."""
        return KINDS[self.code]

    @property
    def passing(self) -> bool:
        """Does it say nothing about what was asked, so that the same may be taken later?"""
        return self.kind.again is not None

    @property
    def text(self) -> str:
        """Sentence and detail in one line."""
        return f"{self.kind.sentence} {self.detail}".strip()
