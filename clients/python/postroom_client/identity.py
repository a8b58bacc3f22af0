"""The id of a message whose publisher gave none: the same UUIDv7 that the broker and every client compute
(PROTOCOL.md, *Messages*). Nothing is sent or stored for it."""

from functools import lru_cache
from hashlib import blake2b

_LOW = (1 << 62) - 1


@lru_cache(maxsize=64)
def _salt(epoch: str) -> int:
    return int.from_bytes(blake2b(epoch.encode(), digest_size=3).digest(), "big") & 0x3FFFFF


def made_id(epoch: str, offset: int, at: int) -> str:
    """48 bits of `at` (unix ms), then 74 bits: (offset mod 2^52) · 2^22 + 22 bits of the epoch's BLAKE2b."""
    low = (offset & ((1 << 52) - 1)) << 22 | _salt(epoch)
    text = f"{at << 80 | 7 << 76 | (low >> 62) << 64 | 2 << 62 | low & _LOW:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
