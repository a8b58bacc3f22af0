"""Receipts: what a worker quotes to settle a message it received. Opaque to clients. Floor 4.

A receipt says offset and lease number, and of which queue in which log, so that one of another queue or of a log that
was restored meanwhile settles nothing. Lease numbers differ between runs of the daemon, so that a receipt from before
a restart settles its message only while nobody leases it anew.
"""

from dataclasses import dataclass
from hashlib import blake2b

from broker.core.errors import BrokerError, Code


@dataclass(frozen=True, slots=True)
class Receipt:
    """The message at `offset`, handed out under `lease`."""

    offset: int
    lease: int


class Receipts:
    """Makes and reads the receipts of one queue in one log."""

    def __init__(self, queue: str, epoch: str) -> None:
        self._mark = blake2b(f"{epoch}/{queue}".encode(), digest_size=6).hexdigest()

    def make(self, receipt: Receipt) -> str:
        """The text that goes to the worker."""
        return f"{receipt.offset:x}-{receipt.lease:x}-{self._mark}"

    def read(self, text: object) -> Receipt:
        """Raises BAD_REQUEST for what no receipt of this queue looks like."""
        parts = text.split("-") if type(text) is str and len(text) <= 64 and text.isascii() else []
        if len(parts) != 3 or not all(part.isalnum() for part in parts):
            raise BrokerError(Code.BAD_REQUEST, "not a receipt; send the one that came with the message")
        if parts[2] != self._mark:
            raise BrokerError(Code.BAD_REQUEST, "the receipt is of another queue, or of a log from before a restore")
        try:
            return Receipt(_number(parts[0]), _number(parts[1]))
        except ValueError:
            raise BrokerError(Code.BAD_REQUEST, "not a receipt; send the one that came with the message") from None


def _number(text: str) -> int:
    number = int(text, 16)
    if number >= 1 << 63:
        raise ValueError(text)
    return number
