"""Answers to `request`: one tap on `$reply/<client>/#`, a number per request as the last level of its topic."""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from postroom_client import wire
from postroom_client.body import Decoder
from postroom_client.credit import Credit
from postroom_client.errors import PostroomError
from postroom_client.message import LoggedMessage, Row
from postroom_client.waiting import reject_all, resolve

if TYPE_CHECKING:
    from postroom_client.connection import Connection

logger = logging.getLogger("postroom_client")


class ReplyBox:
    """`name` makes the topics this client's own."""

    busy = False

    def __init__(self, connection: "Connection", name: str, decoder: Decoder | None = None) -> None:
        self.number = connection.readers.number()
        self._connection = connection
        self._prefix = f"$reply/{name}/"
        self._decoder = decoder
        self._credit = Credit(1000)
        self._expected: dict[str, asyncio.Future[LoggedMessage]] = {}
        self._numbers = 0
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Be attached, so that no answer passes unseen; the first asker attaches for all."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.ensure_future(self._connection.readers.attach(self))
        await asyncio.shield(self._opening)

    def expect(self) -> tuple[str, asyncio.Future[LoggedMessage]]:
        """A fresh topic, and the future of what arrives on it."""
        self._numbers += 1
        topic = f"{self._prefix}{self._numbers}"
        waiter = self._expected[topic] = asyncio.get_running_loop().create_future()
        return topic, waiter

    def drop(self, topic: str) -> None:
        """Nobody waits on it any more."""
        self._expected.pop(topic, None)

    # The reader's side

    def attach_frame(self) -> tuple[Any, ...]:
        """ATTACH, as a tap."""
        credit, size = self._credit.opening(self._connection.now())
        options = {"credit": credit, "bytes": size, "topics": [f"{self._prefix}#"], "live": "tap"}
        return (wire.ATTACH, self.number, None, options)

    def attached(self, info: Any) -> list[tuple[Any, ...]]:
        """Nothing to send."""
        del info
        return []

    def delivered(self, rows: Sequence[Row], tries: Any) -> None:
        """Answers, or what comes too late."""
        del tries
        epoch = self._connection.outbox.epoch
        for row in rows:
            self._credit.spend(len(row[4]))
            waiter = self._expected.pop(row[1], None)
            if waiter is not None:
                resolve(waiter, LoggedMessage(row, epoch, self._decoder))
        self._connection.write_soon(self)

    def detached(self, error: PostroomError) -> bool:
        """No answers come any more."""
        self._opening = None
        reject_all(self._expected.values(), error)
        return False

    def lost(self, epoch_changed: bool = False) -> None:
        """Answers sent meanwhile pass unseen; their askers time out."""

    def pause(self) -> None:
        """Nothing to stop."""

    def frames(self, now: float) -> list[tuple[Any, ...]]:
        """Fresh credit."""
        grant = self._credit.due(now, idle=True)
        return [(wire.CREDIT, self.number, *grant)] if grant else []
