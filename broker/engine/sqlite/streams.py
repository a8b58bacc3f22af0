"""Steps 3 to 5 for streams: readers of the log, fed from commits while live and by reading the log while behind.

Floor 2.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError, Code
from broker.core.message import Row
from broker.core.stream import Reader, Tap
from broker.core.subscription import Consumer, Outcome, Spec

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine

MAX_READ = 1_000


class StreamHandle:
    """One named stream: its committed cursor. Each consumer reads on its own from there."""

    def __init__(self, number: int, spec: Spec, floor: int) -> None:
        self.number = number
        self.spec = spec
        self.floor = floor
        self.persisted_floor = floor
        self.attachments: list[ReaderAttachment] = []

    def advance(self, offset: int, end: int) -> None:
        """Commit the cursor: everything up to `offset` is done. It never goes back, nor past the end of the log."""
        self.floor = max(self.floor, min(offset, end))


class Leaseless:
    """The part of an Attachment that is about leases, where there are none."""

    def extend(self, offsets: Sequence[int], duration: int) -> Sequence[int]:
        """None of them is leased."""
        return offsets

    def started(self, offsets: Sequence[int]) -> None:
        """Nothing counts against anybody."""

    def held(self, offset: int) -> int | None:
        """Under no lease."""
        return 0


class ReaderAttachment(Leaseless):
    """A reader's end of its tie to the log; with a handle it commits a named cursor."""

    def __init__(
        self,
        engine: "SqliteEngine",
        consumer: Consumer,
        filters: Sequence[str],
        position: int,
        *,
        recovered: bool = True,
        since: int = 0,
        handle: StreamHandle | None = None,
        passing: bool = False,
    ) -> None:
        self.engine = engine
        self.recovered = recovered
        self.position = position
        self.handle = handle
        self._since = since
        self._open = True
        self.reader = Reader(consumer, filters, position, passing=passing)
        self.reader.live = position >= engine.log.end
        engine.routes.add(filters, self.reader)
        engine.attachments.add(self)

    @property
    def skipped(self) -> int:
        """Messages of no log that passed it by."""
        return self.reader.skipped

    def grant(self, messages: int, size: int) -> None:
        """Add credit."""
        self.reader.credit += messages
        self.reader.room += size
        self.feed()

    def feed(self) -> None:
        """If it is behind and has credit, read the log for it: from memory at once, else in a task."""
        while self.reader.hungry and self._open:
            if not self._from_tail():
                self.reader.reading = True
                self.engine.spawn(self._from_file())
                return

    def _from_tail(self) -> bool:
        """Feed what is in memory; False when it begins too late for that."""
        reader, log = self.reader, self.engine.log
        if reader.position + 1 < log.tail.begin:
            return False
        wanted = self.engine.matchers.of(reader.filters)
        rows: list[Row] = []
        for batch in log.tail.after(reader.position):
            rows += [row for row in batch if wanted[row[1]]]
            if len(rows) > reader.credit:
                break
        else:
            reader.read(self._young(rows), log.end, log.end)
            return True
        reader.read(self._young(rows), rows[-1][0], log.end)
        return True

    async def _from_file(self) -> None:
        reader, filters = self.reader, self.reader.filters
        try:
            page = await self.engine.read_from(filters, reader.position, min(reader.credit, MAX_READ))
            if self._open and reader.filters is filters:
                reader.read(self._young(page.rows), page.scanned, self.engine.log.end)
        finally:
            reader.reading = False
        self.feed()

    def _young(self, rows: list[Row]) -> list[Row]:
        return [row for row in rows if row[2] >= self._since] if self._since else rows

    def settle(
        self, outcome: Outcome, offsets: Sequence[int], delay: int | None = None, error: str | None = None
    ) -> Sequence[int]:
        """`ack` commits the cursor at the highest of these offsets; a stream knows no other outcome."""
        if outcome is not Outcome.ACK or self.handle is None:
            raise BrokerError(
                Code.WRONG_KIND, "a named stream's cursor is moved by ack; there is nothing else to settle"
            )
        self.handle.advance(max(offsets, default=0), self.engine.log.end)
        self.engine.changed(self.handle)
        return ()

    def refilter(self, filters: Sequence[str]) -> None:
        """What is just being read by the old ones is read again."""
        if self.handle is not None:
            raise BrokerError(Code.UNSUPPORTED, "a named stream's topics are its settings")
        if self._open:
            self.engine.routes.remove(self.reader.filters, self.reader)
            self.reader.filters = list(filters)
            self.engine.routes.add(filters, self.reader)

    def detach(self, *, lost: bool = False) -> None:
        """Go away."""
        if not self._open:
            return
        self._open = False
        self.reader.live = False
        self.engine.routes.remove(self.reader.filters, self.reader)
        self.engine.attachments.discard(self)
        if self.handle is not None:
            self.handle.attachments.remove(self)


class TapAttachment(Leaseless):
    """A tap's end of its tie."""

    recovered = True

    def __init__(self, engine: "SqliteEngine", consumer: Consumer, filters: Sequence[str]) -> None:
        self.engine = engine
        self.filters = list(filters)
        self.tap = Tap(consumer)
        self.position = engine.log.end
        self._open = True
        engine.taps.add(self.filters, self.tap)

    @property
    def skipped(self) -> int:
        """Messages that passed it by."""
        return self.tap.skipped

    def grant(self, messages: int, size: int) -> None:
        """Add credit."""
        self.tap.credit += messages
        self.tap.room += size

    def settle(
        self, outcome: Outcome, offsets: Sequence[int], delay: int | None = None, error: str | None = None
    ) -> Sequence[int]:
        """A tap keeps nothing."""
        return offsets

    def refilter(self, filters: Sequence[str]) -> None:
        """A tap is made anew."""
        raise BrokerError(Code.UNSUPPORTED, "a tap's topics do not change")

    def detach(self, *, lost: bool = False) -> None:
        """Go away."""
        if self._open:
            self._open = False
            self.engine.taps.remove(self.filters, self.tap)
