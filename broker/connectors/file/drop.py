"""The drop folder source: every file put into a folder becomes messages, exactly once in the log.

The journey of a file: seen, stable, claimed (`.work/`), judged whole, published batch by batch with the ledger in the
same transaction, put away to `done/` or, with a note that says what to mend, to `failed/`. A file moves only after the
commit of what it stands for, and whatever is found in `.work/` is carried on from the ledger. So cancelling or
crashing at any point loses and doubles nothing. What is wrong with one file or folder stays there. Floor 4.
"""

import asyncio
import logging
import mimetypes
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from broker.auth.principal import BROKER
from broker.connectors.file.dropped import ChangedError, DroppedFile, Judgement
from broker.connectors.file.folder import Claim, Folder, shown
from broker.connectors.file.formats import Row
from broker.connectors.file.ledger import Entry, Ledger, identity_of, row_id
from broker.connectors.file.options import DropOptions
from broker.core.errors import BrokerError, Code
from broker.core.message import Draft
from broker.engine.base import Set, Unit
from broker.hub import Hub, Outgoing
from broker.observe.trace import TRACEPARENT, made_traceparent

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_FORGET_EVERY = 86_400.0


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """A drop folder as operators see it. `state`: `ok`, `waiting` (the broker takes nothing now) or `failing`; `reason`
    says why. `file`, `row`, `rows`: what is in hand. The counts are since start."""

    feed: str
    topic: str
    state: str
    reason: str
    watched: int
    file: str
    row: int
    rows: int
    done: int
    failed: int
    skipped: int
    published: int


@dataclass(frozen=True, slots=True)
class _Work:
    """A file on its way into the log."""

    claim: Claim
    file: DroppedFile
    judgement: Judgement
    identity: str


class _UnfitError(Exception):
    """The file cannot become messages; `note` is for the one who dropped it."""

    def __init__(self, reason: str, mend: str, **details: Any) -> None:
        super().__init__(reason)
        self.note = {"reason": reason, "what_to_do": mend, **details}


class DropFolder:
    """See the module. `run` is its task; a test calls `poll`. `wall` and `monotonic` are clocks in seconds."""

    def __init__(
        self,
        hub: Hub,
        options: DropOptions,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._hub = hub
        self._options = options
        self._wall = wall
        self._monotonic = monotonic
        self._sleep = sleep
        self._folder = Folder(options, wall, monotonic)
        self._ledger = Ledger(hub, options.feed)
        # A thread of its own: a network drive that hangs must not stop other folders.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drop")
        self._troubles: dict[str, str] = {}
        self._fresh: set[str] = set()  # troubles of this poll
        self._waits_for = ""
        self._hand: tuple[str, int, int] = ("", 0, 0)
        self._done = self._failed = self._skipped = self._published = 0
        self._forget_at = monotonic()

    async def run(self) -> None:
        """Poll until cancelled; what is in hand then is carried on by the next one."""
        try:
            while True:
                try:
                    await self.poll()
                except Exception as error:
                    log.exception("drop folder: a fault of the broker", extra=self._fields())
                    self._trouble("broker", f"{type(error).__name__}: {error}")
                await self._sleep(self._options.poll / 1000)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the thread; nothing is polled afterwards."""
        self._thread.shutdown(wait=False)

    async def poll(self) -> None:
        """Carry on what was in hand, then take what is stable, one file after the other in natural order."""
        self._fresh.clear()
        try:
            await self._io(self._folder.prepare)
            for claim in await self._io(self._folder.claimed):
                await self._attempt(claim)
            names = await self._io(self._folder.stable)
        except OSError as error:
            self._trouble("folder", _text(error))
            return
        for name in names:
            try:
                claimed = await self._io(self._folder.claim, name)
            except OSError as error:
                self._trouble(name, f"{shown(name)} cannot be taken: {_text(error)}")
                continue
            if claimed is not None:
                await self._attempt(claimed)
        self._end_troubles()
        await self._forget()

    def status(self) -> FolderStatus:
        """How it fares."""
        reason = next(iter(self._troubles.values()), "") or self._waits_for
        file, row, rows = self._hand
        return FolderStatus(
            feed=self._options.feed,
            topic=self._options.topic,
            state="failing" if self._troubles else "waiting" if self._waits_for else "ok",
            reason=reason,
            watched=self._folder.waiting,
            file=file,
            row=row,
            rows=rows,
            done=self._done,
            failed=self._failed,
            skipped=self._skipped,
            published=self._published,
        )

    # One file

    async def _attempt(self, claim: Claim) -> None:
        """Take one file as far as it goes; what stops it is told, the others go on."""
        try:
            await self._take(claim)
        except (OSError, BrokerError) as error:
            self._trouble(claim.id, f"{claim.shown} waits in {self._folder.work}: {_text(error)}")
        finally:
            self._hand, self._waits_for = ("", 0, 0), ""

    async def _take(self, claim: Claim) -> None:
        self._hand = (claim.shown, 0, 0)
        file = DroppedFile(claim.path, self._options, self._hub.limits.max_body)
        try:
            judgement = await self._io(file.judge)
            if judgement.flaws:
                raise _unfit(judgement)
            await self._enter(claim, file, judgement)
        except ChangedError:
            # Nothing of it is published yet: it was not stable after all.
            log.warning("a dropped file changed while it was read; it is put back", extra=self._fields(claim))
            await self._io(self._folder.release, claim)
        except _UnfitError as error:
            await self._refuse(claim, error)
        finally:
            file.stop()  # when cancelled, the thread may still be reading; it closes the file after that
            self._thread.submit(file.close)

    async def _enter(self, claim: Claim, file: DroppedFile, judgement: Judgement) -> None:
        """Find its place in the ledger: new, begun before, or a duplicate."""
        identity = identity_of(self._options.feed, judgement.sha256)
        entry = await self._ledger.find(identity)
        if entry is not None and entry.done and entry.claim != claim.id:
            if self._options.on_duplicate != "process":
                await self._duplicate(claim, entry)
                return
            identity = identity_of(self._options.feed, judgement.sha256, claim.id)
            entry = await self._ledger.find(identity)
        if entry is None:
            entry = Entry(claim.id, claim.shown, 0, judgement.rows, 0)
        work = _Work(claim, file, judgement, identity)
        if not entry.done:
            await self._publish(work, entry)
        await self._io(self._folder.put_away, claim, self._folder.done)
        self._done += 1
        trace = identity[:32]
        log.info("file published", extra=self._fields(claim, rows=judgement.rows, sha256=judgement.sha256, trace=trace))

    async def _publish(self, work: _Work, entry: Entry) -> None:
        """Rows that are not in the log yet, in batches; the last one makes the entry done."""
        await self._io(work.file.begin, entry.rows)
        first = True
        while first or not entry.done:
            first = False
            try:
                rows = await self._io(work.file.batch)
            except ChangedError:
                if not entry.rows:
                    raise
                raise _unfinished("it changed while it was read", entry.rows) from None
            entry = await self._publish_batch(work, entry, rows)

    async def _publish_batch(self, work: _Work, entry: Entry, rows: Sequence[Row]) -> Entry:
        """All of these rows, in as many units as the queues have room for."""
        at, size = 0, max(1, len(rows))
        while at < len(rows) or not rows:
            part = rows[at : at + size]
            drafts = await self._io(self._drafts, work, entry, part)
            try:
                entry = await self._commit(work, entry, drafts)
            except BrokerError as error:
                if not error.passing:
                    raise _unfinished(error.text, entry.rows) from None
                if error.code is not Code.QUEUE_FULL or size == 1:
                    await self._wait(error)
                size = max(1, size // 2) if error.code is Code.QUEUE_FULL else size
                continue
            self._waits_for = ""
            self._hand = (work.claim.shown, entry.rows, entry.total)
            if not rows:
                break
            at, size = at + len(part), min(size * 2, len(rows))
        return entry

    def _drafts(self, work: _Work, entry: Entry, rows: Sequence[Row]) -> list[Draft]:
        """Stored forms, made in the thread; raises _UnfitError that names the line."""
        drafts: list[Draft] = []
        options, judgement = self._options, work.judgement
        kind = options.content_type or _content_type(options, work.claim.name)
        for row in rows:
            headers = {
                "file.name": work.claim.shown,
                "file.sha256": judgement.sha256,
                "file.mtime": str(judgement.mtime),
                "file.row": str(row.number),
                "file.rows": str(judgement.rows),
                "file.line": str(row.line),
                TRACEPARENT: made_traceparent(work.identity),
            }
            given = {"id": row_id(work.identity, row.number), "key": row.key, "content_type": kind, "headers": headers}
            try:
                draft = self._hub.draft(BROKER, Outgoing(options.topic, row.body, given))
            except BrokerError as error:
                raise _unfinished(error.text, entry.rows, row.line) from None
            assert isinstance(draft, tuple)
            drafts.append(draft)
        return drafts

    async def _commit(self, work: _Work, entry: Entry, drafts: list[Draft]) -> Entry:
        """One transaction: rows and ledger. The revision guards against anybody else having written it."""
        after = replace(
            entry,
            claim=work.claim.id,
            name=work.claim.shown,
            rows=entry.rows + len(drafts),
            total=work.judgement.rows,
            at=int(self._wall() * 1000),
        )
        write = Set(self._ledger.key(work.identity), after.pack(), expect=entry.revision)
        try:
            receipt = await self._hub.committed(Unit(publishes=drafts, sets=[write], sender=self))
        except BrokerError as error:
            if error.code is not Code.CONDITION_FAILED:
                raise
            # A commit whose outcome we were not told: the ledger knows it.
            found = await self._ledger.find(work.identity)
            if found is None or (found.claim, found.rows) != (after.claim, after.rows):
                raise OSError("another daemon publishes the same file; give each its own folder") from None
            return found
        self._published += len(drafts)
        return replace(after, revision=receipt.revisions[0])

    async def _wait(self, error: BrokerError) -> None:
        if self._waits_for != error.text:
            log.warning("drop folder waits", extra=self._fields(reason=error.text, code=error.code.value))
        self._waits_for = error.text
        await self._sleep(self._options.poll / 1000)

    # Its end

    async def _refuse(self, claim: Claim, error: _UnfitError) -> None:
        note = {"file": claim.shown, **error.note}
        where = await self._io(self._folder.put_away, claim, self._folder.failed, note, ".err.json")
        self._failed += 1
        log.warning("file refused", extra=self._fields(claim, reason=str(error), note=f"{shown(str(where))}.err.json"))

    async def _duplicate(self, claim: Claim, entry: Entry) -> None:
        reason = f"the same content was published as {entry.name}"
        note = {"file": claim.shown, "reason": reason, "published_at": entry.at}
        if self._options.on_duplicate == "error":
            mend = 'drop new content; to publish the same again set on_duplicate = "process"'
            await self._refuse(claim, _UnfitError(reason, mend, published_at=entry.at))
            return
        note["what_to_do"] = 'nothing; to publish the same content again set on_duplicate = "process"'
        await self._io(self._folder.put_away, claim, self._folder.done, note, ".skipped.json")
        self._skipped += 1
        log.warning("file skipped", extra=self._fields(claim, reason=reason))

    async def _forget(self) -> None:
        if self._monotonic() < self._forget_at:
            return
        self._forget_at = self._monotonic() + _FORGET_EVERY
        try:
            await self._ledger.forget(int(self._wall() * 1000) - self._options.remember)
        except BrokerError as error:
            log.warning("the ledger cannot be trimmed now", extra=self._fields(reason=error.text))

    # Surroundings

    async def _io(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def _trouble(self, what: str, reason: str) -> None:
        if self._troubles.get(what) != reason:
            log.error("drop folder fails", extra=self._fields(reason=reason))
        self._troubles[what] = reason
        self._fresh.add(what)

    def _end_troubles(self) -> None:
        over = [what for what in self._troubles if what not in self._fresh]
        for what in over:
            log.info("drop folder: over", extra=self._fields(reason=self._troubles.pop(what)))

    def _fields(self, claim: Claim | None = None, **fields: object) -> dict[str, object]:
        named = {"feed": self._options.feed, "topic": self._options.topic}
        return {**named, **({"file": claim.shown} if claim else {}), **fields}


def _unfit(judgement: Judgement) -> _UnfitError:
    first = judgement.flaws[0]
    return _UnfitError(
        f"line {first.line}: {first.reason}",
        "mend these lines, then drop the file again; nothing of it was published",
        errors=[{"line": flaw.line, "reason": flaw.reason} for flaw in judgement.flaws],
        published_rows=0,
    )


def _unfinished(reason: str, published: int, line: int = 0) -> _UnfitError:
    """Something that only came out while the rows were being published."""
    mend = "mend what it says and drop the file again"
    if published:
        mend = f"rows 1 to {published} are published: drop the same bytes again to go on behind them, or only the rest"
    errors = [{"line": line, "reason": reason}] if line else []
    return _UnfitError(reason, mend, errors=errors, published_rows=published)


def _content_type(options: DropOptions, name: str) -> str:
    if options.format != "whole":
        return "application/json"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _text(error: OSError | BrokerError) -> str:
    if isinstance(error, BrokerError):
        return error.text
    path = f"{shown(str(error.filename))}: " if error.filename else ""
    mend = "; give the daemon's user rights to it" if isinstance(error, PermissionError) else ""
    return f"{path}{error.strerror or error}{mend}"
