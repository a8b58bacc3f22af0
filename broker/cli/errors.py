"""What a verb can end with other than success: one sentence, and the command to try next. Floor 7.

`main` prints both to standard error and exits with 1; wrong usage is typer's and exits with 2.
"""

from broker.core.errors import Code

NEXT: dict[str, str] = {
    Code.UNKNOWN_SUBSCRIPTION.value: "postroom queue ls",
    Code.WRONG_KIND.value: "postroom queue ls --all",
    Code.CONFLICT.value: "postroom queue ls --all",
    Code.BAD_FILTER.value: "postroom sub 'orders/#'",
    Code.BAD_TOPIC.value: "postroom topic ls",
    Code.BAD_POSITION.value: "postroom sub '#' --from earliest",
    Code.UNAUTHENTICATED.value: "export POSTROOM_TOKEN_FILE=FILE, or postroom --token TOKEN status",
    Code.QUEUE_FULL.value: "postroom queue ls",
    Code.RATE_LIMITED.value: "postroom status",
    Code.OVERLOADED.value: "postroom status",
    Code.DISK_LOW.value: "postroom status",
    Code.STORAGE_FAILED.value: "postroom status",
    Code.INTERNAL.value: "postroom status",
    Code.SHUTTING_DOWN.value: "postroom status",
}
"""Error code of the daemon → the command that helps to see why."""


class FailedError(Exception):
    """A verb could not do what was asked. `hint` is a whole command line, or empty."""

    def __init__(self, text: str, hint: str = "") -> None:
        self.text = text
        self.hint = hint
        super().__init__(text)


class UnreachableError(FailedError):
    """Nobody answers at that address, or the connection broke."""


class RefusedError(FailedError):
    """The daemon answered with a problem document (RFC 9457)."""

    def __init__(self, status: int, code: str, text: str) -> None:
        self.status = status
        self.code = code
        super().__init__(text, NEXT.get(code, ""))
