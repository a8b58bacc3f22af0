"""The lasting tie to the broker over connections that come and go.

It connects again with backoff, greets with the same publisher id, attaches every reader anew and sends again what was
not confirmed. Everything that a turn of the loop gathers (publishes, settles, credit) leaves in one write.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any

from postroom_client import tls, wire
from postroom_client.address import Address
from postroom_client.backoff import Backoff
from postroom_client.errors import FATAL, UNTRUSTED, ClientClosed, ConnectionLost, PostroomError, refusal
from postroom_client.link import Link, dial
from postroom_client.outbox import Outbox
from postroom_client.readers import Reader, Readers
from postroom_client.requests import Requests
from postroom_client.waiting import Line

logger = logging.getLogger("postroom_client")


class Connection:
    """See the module. Made and used inside one running loop. `error`: why there will be no other connection."""

    def __init__(
        self,
        address: Address,
        hello: dict[str, Any],
        outbox: Outbox,
        backoff: Backoff,
        dial_timeout: float = 10.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.outbox = outbox
        self.readers = Readers(self.send)
        self.requests = Requests(self.send)
        self.settings: dict[str, Any] = {}
        self.error: PostroomError | None = None
        self._hello = hello
        self._backoff = backoff
        self._dial_timeout = dial_timeout
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._last_error: Exception | None = None
        self._scheduled = False
        self._room = Line()
        self._empty = Line()

    @property
    def connected(self) -> bool:
        """Is there a connection just now?"""
        return self._link is not None

    def now(self) -> float:
        """The loop's clock, in seconds."""
        return self._loop.time()

    def check(self) -> None:
        """Raises why nothing goes out any more."""
        if self.error is not None:
            raise self.error

    # Life

    async def open(self, timeout: float) -> None:
        """Be connected within so many seconds. Raises ConnectionLost saying why not, or the broker's refusal."""
        self._keeper = self._loop.create_task(self._keep(), name="postroom connection")
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._first)
        except TimeoutError:
            await self.close(0)
            raise ConnectionLost(f"no broker at {self.address} within {timeout:g} s: {self._last_error}") from None
        except BaseException:
            await self.close(0)
            raise

    async def _keep(self) -> None:
        failures = 0
        while True:
            failed, connected = await self._connect_once()
            self._last_error = failed
            if failed.code in FATAL or (failed.code == UNTRUSTED and not self._first.done()):
                self._fail(failed)
                return
            failures = 1 if connected else failures + 1
            await asyncio.sleep(self._backoff.delay(failures))

    async def _connect_once(self) -> tuple[PostroomError, bool]:
        """Connect and stay until the connection ends; why it did, and whether there was one."""
        link: Link | None = None
        try:
            link = await dial(self.address, self._make_link, self._dial_timeout, self._context)
            await link.ended
        except PostroomError as error:
            return error, False
        except (OSError, TimeoutError) as error:
            return tls.failure(error, self.address) or ConnectionLost(str(error) or "no answer in time"), False
        finally:
            if link is not None:
                self._dropped(link)
        return link.error or ConnectionLost("the broker closed the connection"), True

    def _make_link(self) -> Link:
        return Link(self._hello, self._receive, self.write_soon)

    def _dropped(self, link: Link) -> None:
        logger.info("connection to %s ended: %s", self.address, link.error or "closed")
        link.abort()
        self._link = None
        self.readers.lost()
        self.requests.lost()

    def _fail(self, error: PostroomError) -> None:
        """Nothing will be answered any more."""
        self.error = error
        if not self._first.done():
            self._first.set_exception(error)
            self._first.exception()
        self.outbox.abandon(error)
        self.requests.fail(error)
        self.readers.fail(error)
        self._room.wake_all()
        self._empty.wake_all()

    async def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is unconfirmed, say goodbye, and go."""
        if self.error is None and timeout > 0:
            try:
                async with asyncio.timeout(timeout):
                    await self._part()
            except TimeoutError:
                logger.warning("closed with %d messages unconfirmed", self.outbox.count)
        link = self._link
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if link is not None:
            link.abort()
            await asyncio.wait([link.ended])
        if self.error is None:
            self._fail(ClientClosed())

    async def _part(self) -> None:
        await self.confirmed()
        link = self._link
        if link is not None:
            self._goodbye(link)
            await asyncio.shield(link.ended)

    # Out

    def write_soon(self, reader: Reader | None = None) -> None:
        """Something waits to be written: it leaves at the end of this turn. On the path of every message."""
        if reader is not None:
            self.readers.touch(reader)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_turn)

    def send(self, frame: tuple[Any, ...]) -> None:
        """Send one frame now, behind what waits; without a connection it is dropped."""
        if self._link is not None:
            self._flush()
            self._link.write(wire.pack(frame))

    def _flush(self) -> None:
        link = self._link
        if link is None:
            return
        out = [wire.pack(frame) for frame in self.readers.gather(self._loop.time())]
        # Slowed, we send nothing ahead of the answers, so that settles do not queue up behind publishes.
        ahead = link.slowed and self.outbox.underway
        if self.outbox.waiting and not link.paused and not link.closing and not ahead:
            out.extend(self.outbox.frames())
        if out:
            link.write(b"".join(out))

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """For readers that were dropped without being closed, in whatever thread the collector ran."""
        if self.error is None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    # Publishing

    async def room(self) -> None:
        """Wait until the window has room for one more message. Raises why there will be none."""
        self.check()
        while self.outbox.full:
            await self._room.wait()
            self.check()

    async def confirmed(self) -> None:
        """Wait until nothing is unconfirmed."""
        while self.outbox.count and self.error is None:
            await self._empty.wait()

    def _note_room(self) -> None:
        outbox = self.outbox
        if self._room and not outbox.full:
            self._room.wake(outbox.limit - outbox.count)
        if self._empty and not outbox.count:
            self._empty.wake_all()

    # In

    def _receive(self, link: Link, frame: wire.Frame) -> None:
        kind = frame[0]
        if kind == wire.DELIVER:
            self.readers.on_deliver(frame)
        elif kind == wire.CONFIRM:
            _, upto, runs, duplicates = wire.padded(frame, 4)
            self.outbox.confirm(upto, runs or (), duplicates or ())
            self._note_room()
            if link.slowed:
                self.write_soon()
        elif kind == wire.REPLY:
            self.requests.reply(frame)
        elif kind == wire.WELCOME:
            self._welcome(link, wire.padded(frame, 3)[2] or {})
        else:
            self._receive_seldom(link, frame)

    def _receive_seldom(self, link: Link, frame: wire.Frame) -> None:
        kind = frame[0]
        if kind == wire.ATTACHED:
            self.readers.on_attached(frame)
        elif kind == wire.DETACHED:
            self.readers.on_detached(frame)
        elif kind == wire.REFUSE:
            _, sequence, count, code, text = wire.padded(frame, 5)
            self.outbox.refuse(sequence, count, refusal(code, text))
            self._note_room()
        elif kind == wire.ERROR:
            _, request, code, text = wire.padded(frame, 4)
            self.requests.error(request, refusal(code, text))
        elif kind == wire.CLOSING:
            self._closing(link)
        elif kind == wire.SLOWED:
            self._slowed(link, *wire.padded(frame, 3)[1:3])

    def _welcome(self, link: Link, settings: dict[str, Any]) -> None:
        """Resume: ask again, attach again, then send again what is not covered."""
        self.settings = settings
        outbox, epoch = self.outbox, str(settings.get("epoch") or "")
        changed = bool(outbox.epoch) and outbox.epoch != epoch
        outbox.max_frame = int(settings.get("max_frame") or outbox.max_frame)
        outbox.max_batch = min(outbox.max_batch, int(settings.get("max_batch") or outbox.max_batch))
        outbox.batch_bytes = min(outbox.batch_bytes, outbox.max_frame * 3 // 4)
        outbox.welcome(int(settings.get("sequence") or 0), epoch, settings.get("refused") or ())
        self._link = link
        link.write(b"".join(map(wire.pack, [*self.readers.again(changed), *self.requests.again()])))
        self._flush()
        self._note_room()
        if not self._first.done():
            self._first.set_result(None)

    def _slowed(self, link: Link, code: str | None, text: str | None) -> None:
        """SLOWED: a limit of the broker holds up our publishes, or (nil) no longer does."""
        link.slowed = code is not None
        if link.slowed:
            logger.warning("the broker slows our publishing (%s): %s", code, text)
        else:
            logger.info("the broker takes our publishes at full speed again")
            self.write_soon()

    def _closing(self, link: Link) -> None:
        """CLOSING: what is in hand may still be settled; the next connection takes all else."""
        link.closing = True
        self.readers.pause()
        self.write_soon()

    def _flush_turn(self) -> None:
        self._scheduled = False
        self._flush()
        link = self._link
        if link is not None and link.closing and not link.parted and not self.readers.busy:
            self._goodbye(link)

    def _goodbye(self, link: Link) -> None:
        self._flush()
        link.goodbye()
