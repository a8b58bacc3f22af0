"""What can go wrong, as a caller meets it, and the two words a worker may raise to decide a message's fate.

A refusal of the broker keeps its code (stable, for programs) and its sentence (for people, says what to do). Codes of
the client's own: `connection_lost`, `closed`, `window_full`, `bad_reply`, `untrusted`.
"""

# ruff: noqa: N818  the names say what happened

from collections.abc import Sequence
from typing import Any

FATAL = frozenset(
    ("bad_frame", "conflict", "forbidden", "frame_too_large", "not_greeted", "unauthenticated", "unsupported_version")
)
"""Codes after which connecting again would only meet the same answer."""


UNTRUSTED = "untrusted"
"""TLS could not be agreed on. Fatal for a first connection; later somebody may mend a certificate."""


class PostroomError(Exception):
    """A refusal, with the `code` of the broker's table of errors and a `text` that says what to do."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}" if self.text else self.code


class ConnectionLost(PostroomError, ConnectionError):
    """The connection broke or could not be made; whether an unanswered request was done is unknown."""

    def __init__(self, text: str = "the connection to the broker is lost") -> None:
        super().__init__("connection_lost", text)


class ClientClosed(PostroomError):
    """The client was closed; nothing more goes out."""

    def __init__(self, text: str = "the client is closed") -> None:
        super().__init__("closed", text)


class WindowFull(PostroomError):
    """`publish_nowait` found the window of unconfirmed messages full: await `room()` first."""

    def __init__(self, limit: int) -> None:
        super().__init__("window_full", f"{limit} messages are unconfirmed; await room() before publishing more")


class LeaseLost(PostroomError):
    """The message was settled, or leased to somebody else, before this came."""

    def __init__(self, text: str = "the message is not in hand any more") -> None:
        super().__init__("lease_lost", text)


class PartlyRefused(PostroomError):
    """Some messages of a `publish_many` were refused. `results` has, in order, a Receipt or the error of each."""

    def __init__(self, results: Sequence[Any]) -> None:
        refused = [r for r in results if isinstance(r, PostroomError)]
        super().__init__(refused[0].code, f"{len(refused)} of {len(results)} messages were refused: {refused[0].text}")
        self.results = results


class DecodeFailed(Exception):
    """A body is not what it was taken for. A worker rejects such a message at once: it would fail every time."""


class Retry(Exception):
    """Raised by a worker: try this message again, after `delay` seconds or as the retry policy says."""

    def __init__(self, text: str = "", *, delay: float | None = None) -> None:
        super().__init__(text)
        self.delay = delay


class Reject(Exception):
    """Raised by a worker: this message will never succeed; put it to the dead letters now."""


def refusal(code: str, text: str | None) -> PostroomError:
    """The exception for a code of the broker's."""
    if code == "lease_lost":
        return LeaseLost(text or "")
    return PostroomError(code, text or "")
