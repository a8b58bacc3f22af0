"""Reading a log in order: a named stream with a cursor that the broker keeps, a replay that goes on live, or a tap.

Over a lost connection an anonymous reading goes on behind the last message taken; a named one begins at its committed
cursor, and what was taken already is passed over.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from postroom_client import wire
from postroom_client.body import Decoder
from postroom_client.credit import Credit
from postroom_client.errors import PostroomError
from postroom_client.message import LoggedMessage, Row
from postroom_client.waiting import Line

if TYPE_CHECKING:
    from postroom_client.connection import Connection


class Stream:
    """`async for message in stream`. `position`: keep it to read on behind the last message taken. `recovered`: False
    when the last (re)start could not begin where it should, because something between is gone; the first message
    after such a gap says so too."""

    def __init__(
        self,
        connection: "Connection",
        number: int,
        credit: Credit,
        source: str | Sequence[str],
        from_: str | int = "latest",
        *,
        live: str = "stream",
        decoder: Decoder | None = None,
    ) -> None:
        self.connection = connection
        self.number = number
        self.name = source if isinstance(source, str) else None
        self.recovered = True
        self.position: str | None = None
        self.error: PostroomError | None = None
        self._topics = [] if isinstance(source, str) else list(source)
        self._from = from_
        self._live = live
        self._decoder = decoder
        self._credit = credit
        self._rows: deque[Row] = deque()
        self._taken = -1
        self._gap = False
        self._closed = False
        self._opened = False
        self._taker = Line()
        self._epoch = connection.outbox.epoch

    # What the connection calls

    def attach_frame(self) -> tuple[Any, ...]:
        """ATTACH, with all its credit."""
        credit, size = self._credit.opening(self.connection.now())
        options: dict[str, Any] = {"credit": credit, "bytes": size}
        if self.name is None:
            options["topics"], options["live"] = self._topics, self._live
            if self._live == "stream":
                options["from"] = self.position or self._from
        return (wire.ATTACH, self.number, self.name, options)

    def attached(self, info: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """ATTACHED: where reading really begins."""
        self.recovered = info.get("recovered", True) is not False
        self._gap = not self.recovered
        position = info.get("position")
        if position and (self.position is None or not self.recovered):
            self.position = position
        return []

    def delivered(self, rows: Sequence[Row], tries: Mapping[int, tuple[int, int]] | None) -> None:
        """DELIVER."""
        del tries  # streams have none
        if self._taken >= 0 and self._live == "stream":
            fresh = [row for row in rows if row[0] > self._taken]
            for row in rows[: len(rows) - len(fresh)]:
                self._spend(row)
            rows = fresh
        self._rows.extend(rows)
        self._taker.wake_all()

    def detached(self, error: PostroomError) -> bool:
        """The broker let go of it. True: attach again, for it was only too slow and goes on where it is."""
        if error.code == "slow_reader" and not self._closed:
            self._rows.clear()
            return True
        self.error = error
        self._taker.wake_all()
        return False

    def lost(self, epoch_changed: bool = False) -> None:
        """The connection broke; what was delivered and not taken comes again."""
        self._rows.clear()
        self._epoch = self.connection.outbox.epoch
        if epoch_changed:
            self._taken = -1

    @property
    def busy(self) -> bool:
        """A stream has nothing to settle."""
        return False

    def pause(self) -> None:
        """Nothing to stop: what was delivered may be read."""

    def frames(self, now: float) -> list[tuple[Any, ...]]:
        """Fresh credit."""
        grant = self._credit.due(now, idle=not self._rows)
        return [(wire.CREDIT, self.number, *grant)] if grant else []

    # Reading

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> LoggedMessage:
        if not self._opened:
            await self.open()
        while not self._rows:
            if self.error is not None:
                raise self.error
            if self._closed:
                raise StopAsyncIteration
            await self._taker.wait()
        row = self._rows.popleft()
        self._taken = row[0]
        self._spend(row)
        message = LoggedMessage(row, self._epoch, self._decoder, recovered=not self._gap)
        self._gap = False
        self.position = message.position or self.position
        return message

    def _spend(self, row: Row) -> None:
        self._credit.spend(len(row[4]))
        self.connection.write_soon(self)

    async def commit(self, message: LoggedMessage | None = None) -> None:
        """Move the cursor of a named stream behind `message` (default: the last one taken); returns once on disk."""
        if self.name is None:
            raise ValueError("only a named stream has a cursor; keep stream.position yourself")
        offset = self._taken if message is None else message.offset
        if offset >= 0:
            frame = (wire.SETTLE, self.number, "ack", [offset], None)
            await self.connection.requests.ask(lambda request: (*frame, request), repeat=True)

    async def open(self) -> "Stream":
        """Begin; iterating does it by itself. Raises what the broker refuses it for."""
        if not self._opened:
            self._opened = True
            self.connection.check()
            await self.connection.readers.attach(self)
        return self

    async def close(self) -> None:
        """Stop reading."""
        self._closed = True
        self._taker.wake_all()
        await self.connection.readers.detach(self)

    def __del__(self) -> None:
        if self._opened and not self._closed:
            self.connection.call_soon(self.connection.readers.forget, self.number)

    async def __aenter__(self) -> "Stream":
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
