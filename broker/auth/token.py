"""Tokens: `pr_<id>_<secret>`, for programs. The secret has 32 random bytes, so that its SHA-256 can be stored without
salt or stretching: nobody guesses it. Floor 2."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from broker.core.errors import BrokerError, Code

PREFIX = "pr"
ID_BYTES, SECRET_BYTES = 6, 32


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token; times in unix ms. `expires_at` None: it lasts until it is revoked."""

    id: str
    digest: bytes
    created_at: int
    expires_at: int | None = None

    def expired(self, now: int) -> bool:
        """Is its time over?"""
        return self.expires_at is not None and self.expires_at <= now

    def holds(self, secret: str) -> bool:
        """Is this its secret? Takes as long for a wrong one as for the right one."""
        return hmac.compare_digest(self.digest, _digest(secret))


def make_token(
    created_at: int, expires_at: int | None = None, draw: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[str, Token]:
    """A new token's text, to be shown once, and what is kept of it."""
    token_id, secret = draw(ID_BYTES).hex(), draw(SECRET_BYTES).hex()
    return f"{PREFIX}_{token_id}_{secret}", Token(token_id, _digest(secret), created_at, expires_at)


def split_token(text: str) -> tuple[str, str]:
    """Its id and secret. Raises UNAUTHENTICATED for what is no token."""
    parts = text.split("_", 2)
    if len(parts) != 3 or parts[0] != PREFIX:
        raise BrokerError(Code.UNAUTHENTICATED, f"that is no token: they begin with {PREFIX}_")
    return parts[1], parts[2]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
