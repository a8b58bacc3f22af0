"""Where a reader stands and where it wants to begin. Floor 0."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from broker.core.errors import BrokerError, Code


@dataclass(frozen=True, slots=True)
class Position:
    """What a reader keeps: the epoch of the log and the offset up to which it has seen everything."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Raises BrokerError(BAD_POSITION)."""
        epoch, dot, offset = text.partition(".")
        if not dot or not epoch.isalnum() or not offset.isascii() or not offset.isdecimal() or len(offset) > 18:
            raise BrokerError(Code.BAD_POSITION, f"{text!r} is none")
        return cls(epoch, int(offset))


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading begins: `earliest`, `latest`, `offset` (value: first offset wanted), `after` (value: a Position
    already seen) or `time` (value: unix ms, first message published at or after it)."""

    kind: str
    offset: int = 0
    epoch: str = ""

    @classmethod
    def parse(cls, text: str | int) -> "Start":
        """Read `earliest | latest | OFFSET | POSITION | RFC 3339 time`. Raises BrokerError(BAD_POSITION)."""
        if type(text) is int and 0 <= text < 10**18:
            return cls("offset", text)
        if type(text) is not str:
            raise BrokerError(Code.BAD_POSITION, f"{text!r} is none")
        if text in ("earliest", "latest"):
            return cls(text)
        if text.isascii() and text.isdecimal() and len(text) <= 18:
            return cls("offset", int(text))
        if "T" in text or " " in text or text.count("-") == 2:
            return cls("time", _unix_ms(text))
        position = Position.parse(text)
        return cls("after", position.offset, position.epoch)


EARLIEST, LATEST = Start("earliest"), Start("latest")


def _unix_ms(text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BrokerError(Code.BAD_POSITION, f"{text!r} is not an RFC 3339 time such as 2026-11-23T09:00:00Z") from None
    if when.tzinfo is None:
        raise BrokerError(Code.BAD_POSITION, f"{text!r} has no zone; end it with Z or +01:00")
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
