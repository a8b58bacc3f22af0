"""What an endpoint's answer means for the message: taken, try again (when?), or never come back. Pure. Floor 4."""

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 86_400_000
"""Milliseconds; a longer Retry-After is taken for this."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`error` is empty when the message was taken. `retry_after` (ms): the endpoint asked for this pause. `gone`: it
    wants nothing more (410)."""

    error: str = ""
    status: int | None = None
    retry_after: int | None = None
    gone: bool = False


def judge(status: int, retry_after: str | None, location: str | None, excerpt: str, now: float) -> Answer:
    """Standard Webhooks 1.0.0: 2xx takes it, 410 ends it, anything else (redirects too) is a failure. `now` in unix
    seconds; `excerpt` of the body goes to the history of the message."""
    if 200 <= status < 300:
        return Answer(status=status)
    if status == 410:
        return Answer("410: the endpoint is gone", status, gone=True)
    if 300 <= status < 400:
        where = excerpt_of((location or "?").encode(errors="surrogateescape"))
        return Answer(f"{status}: redirects are not followed; set webhook.url to {where}", status)
    error = f"{status}: {excerpt}" if excerpt else str(status)
    return Answer(error, status, parse_retry_after(retry_after, now))


def parse_retry_after(text: str | None, now: float) -> int | None:
    """RFC 9110 §10.2.3: seconds or an HTTP date → milliseconds from now, capped; None when absent or unreadable."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return min(int(text[:12]) * 1000, LONGEST_WAIT)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0, min(int((date.timestamp() - now) * 1000), LONGEST_WAIT))


def excerpt_of(body: bytes) -> str:
    """The first words of a response (or of a header) for people: printable, one line, at most 200 characters."""
    text = body[:800].decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
