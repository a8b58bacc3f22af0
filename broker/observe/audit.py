"""The audit trail: who did what to the broker itself, or tried to, as JSON messages of a durable topic.

It decides what an entry says and bounds how many of those that came to nothing are written, since anybody can cause
them. Writing is the hub's; an entry that cannot be written goes to the log instead. Floor 1.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from broker.observe.origin import ORIGIN

TOPIC = "$sys/audit"
DENIED_PER_SECOND = 20
"""Entries of what was refused or failed; those beyond are counted in the next."""
MAX_TEXT = 500
"""Characters of a name that a stranger made up."""

log = logging.getLogger(__name__)


class Trail:
    """`write` stores the bytes of one entry and says how that ended; it may raise what it likes. `wall` gives unix
    seconds, `monotonic` seconds."""

    def __init__(
        self,
        write: Callable[[bytes, Callable[[Exception | None], None]], None],
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._wall = wall
        self._monotonic = monotonic
        self._second = 0
        self._in_second = 0
        self._left_out = 0

    def record(
        self, principal: str, verb: str, resource: str, outcome: str, more: Mapping[str, object], *, good: bool
    ) -> None:
        """One entry. `verb` such as `queue.purge`; `outcome` is a word, for what was refused its error code; `more`
        adds members. Never raises, never waits."""
        if not good and not self._has_room():
            return
        origin = ORIGIN.get()
        entry = {
            "at": datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "principal": principal,
            "address": origin.address if origin else "",
            "door": origin.door if origin else "",
            "verb": verb,
            "resource": resource[:MAX_TEXT],
            "outcome": outcome,
            "request_id": origin.request_id if origin else "",
            **more,
        }
        if self._left_out:
            entry["left_out"] = self._left_out
            self._left_out = 0

        def stored(error: Exception | None) -> None:
            if error is not None:
                extra = {"entry": entry, "error": str(error)}
                log.warning("an entry of the audit trail could not be stored", extra=extra)

        try:
            self._write(json.dumps(entry, ensure_ascii=False).encode(errors="replace"), stored)
        except Exception as error:  # a full disk is no reason to fail what was done
            stored(error)

    def _has_room(self) -> bool:
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        if self._in_second > DENIED_PER_SECOND:
            self._left_out += 1
            return False
        return True
