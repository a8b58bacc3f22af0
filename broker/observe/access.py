"""The access log: one line per HTTP request and per connection of the other doors, none per message.

`log.access` says which: `off`, `errors` (what was refused or failed), `all`. Lines are bounded in number, because
strangers can make them appear; those that were left out are counted in the next. Secrets in queries are hidden here,
those in other fields by the log's own filter. Floor 1.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Literal
from urllib.parse import quote

from broker.observe.log import HIDDEN, is_secret_name

Wanted = Literal["off", "errors", "all"]
LINES_PER_SECOND = 200
MAX_PATH = 200
"""Characters of a path or query; what is longer is cut."""

_log = logging.getLogger("broker.access")
_LEVELS: dict[Wanted, int] = {"off": logging.CRITICAL + 1, "errors": logging.WARNING, "all": logging.INFO}


class Bounded(logging.Filter):
    """Lets so many records pass per second. `clock` gives monotonic seconds."""

    def __init__(self, per_second: int = LINES_PER_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_second = per_second
        self._clock = clock
        self._second = 0
        self._passed = 0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by logging for each record."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._passed = second, 0
        self._passed += 1
        if self._passed > self._per_second:
            self._left_out += 1
            return False
        if self._left_out:
            record.left_out = self._left_out
            self._left_out = 0
        return True


def configure_access_log(wanted: Wanted) -> None:
    """May be called again; the last call holds."""
    _log.setLevel(_LEVELS[wanted])
    _log.filters[:] = [Bounded()]


def access_wanted(*, failed: bool) -> bool:
    """Is there any use in putting a line together?"""
    return _log.isEnabledFor(logging.WARNING if failed else logging.INFO)


def access(text: str, *, failed: bool, **fields: object) -> None:
    """Write a line; fields that are None or empty are left out."""
    shown = {name: value for name, value in fields.items() if value not in (None, "")}
    _log.log(logging.WARNING if failed else logging.INFO, text, extra=shown)


def shown_path(path: str) -> str:
    """A path as it goes into a line: cut, and in visible ASCII."""
    return _cut(quote(path, safe="/%:@!$&'()*+,;=~", errors="replace"))


def shown_query(query: Iterable[tuple[str, str]]) -> str:
    """The same for a query, without the values of parameters that are named like secrets."""
    return _cut("&".join(f"{_quoted(n)}={HIDDEN if is_secret_name(n) else _quoted(v)}" for n, v in query))


def _quoted(text: str) -> str:
    return quote(text, safe="/:@$*,;()!", errors="replace")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PATH else f"{text[:MAX_PATH]}… ({len(text)} characters)"
