"""Standard Webhooks 1.0.0: how a webhook is signed and how a receiver tells a true one.

The signed bytes are `id.timestamp.body`; a signature is `v1,` and the base64 of their HMAC-SHA256. Several secrets may
live at once (rotation): the sender signs with each, the receiver accepts any. It decides about bytes and time only;
which secrets live and what happens to a false webhook is its caller's. Pure: no I/O, no clock. Floor 4.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from broker.core.errors import BrokerError, Code

PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
TOLERANCE = 300
"""Seconds that a receiver lets a timestamp be off, both ways."""

_MAX_SIGNATURES = 32


def parse_secret(text: object) -> bytes:
    """The key in `whsec_<base64>` (the prefix and the padding may be missing). Raises BrokerError(BAD_OPTION); the
    error never quotes the secret."""
    if type(text) is not str:
        raise BrokerError(Code.BAD_OPTION, f"a webhook secret must be text: {PREFIX} and base64")
    packed = text.removeprefix(PREFIX)
    try:
        key = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BrokerError(Code.BAD_OPTION, f"a webhook secret must be {PREFIX} and base64") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise BrokerError(
            Code.BAD_OPTION,
            f"a webhook secret must hold {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, not {len(key)}",
        )
    return key


def format_secret(key: bytes) -> str:
    """The inverse of `parse_secret`."""
    return PREFIX + base64.b64encode(key).decode()


def sign(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1` entry per secret, joined by spaces. `timestamp`: unix seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{_mac(secret, signed)}" for secret in secrets)


def verify(
    secrets: Sequence[bytes],
    message_id: str,
    timestamp: str,
    signature: str,
    body: bytes,
    now: float,
    tolerance: int = TOLERANCE,
) -> None:
    """Accept a webhook by its three headers and its raw body, or raise BrokerError(UNAUTHENTICATED) that says which
    part is wrong. `now`: unix seconds. Entries of other versions are passed over."""
    if not timestamp.isascii() or not timestamp.isdecimal() or len(timestamp) > 12:
        raise BrokerError(Code.UNAUTHENTICATED, "webhook-timestamp must be whole unix seconds")
    if abs(now - int(timestamp)) > tolerance:
        raise BrokerError(Code.UNAUTHENTICATED, f"webhook-timestamp is more than {tolerance} s off")
    signed = f"{message_id}.{timestamp}.".encode() + body
    wanted = [_mac(secret, signed).encode() for secret in secrets]
    given = [entry.partition(",") for entry in signature.split()[:_MAX_SIGNATURES]]
    right = False
    for version, _, mac in given:
        for mine in wanted:
            right |= version == "v1" and hmac.compare_digest(mine, mac.encode("utf-8", "replace"))
    if not right:
        raise BrokerError(Code.UNAUTHENTICATED, "no entry of webhook-signature is right for this body")


def _mac(secret: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
