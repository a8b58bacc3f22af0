"""One HTTP connection: who is on it, and what it must have done by when.

aiohttp speaks HTTP but waits without end: for a first byte, for the rest of a head or a body, for a client that does
not read. This class, a RequestHandler with an eye on the clock, ends such connections and counts all of them; it
answers bytes that are not HTTP with a problem document. Floor 4.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import Any

from aiohttp import http_exceptions, web
from aiohttp._websocket.reader import WebSocketReader
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from broker.auth.doorkeeper import Doorkeeper
from broker.auth.identity import Identity
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.net.address import UNIX, host_port, is_here, peer_of
from broker.net.admission import Admission
from broker.net.deadline import Deadlines
from broker.net.tls import peer_names
from broker.observe.access import access, access_wanted
from broker.protocols.http.frames import Masked
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.problem import problem, raw_problem
from broker.protocols.http.serial import Prompt, Serial

_LATE = raw_problem(BrokerError(Code.TIMEOUT, "the request did not arrive in time; nothing was done"), 408)
PLAIN = raw_problem(BrokerError(Code.BAD_REQUEST, "this port speaks TLS; write https://"))
"""The answer to a client that speaks plainly where TLS is spoken."""


Exchanges = Callable[["Connection", Any, StreamReader], Prompt | None]
"""How a request is answered without a task; None when it needs one."""
LARGE_READ = 1 << 16
"""Bytes of frames, mostly a full buffer, after which others have their turn."""
_HEAD_ENDS = b"\r\n\r\n"


class Declined:
    """A request that asks for a protocol that is not spoken here: its body, and how many bytes came behind its head."""

    __slots__ = ("came", "payload")

    def __init__(self, payload: StreamReader, came: int) -> None:
        self.payload = payload
        self.came = came

    @property
    def behind(self) -> bool:
        """Did more come than its body? Of one in chunks this is not known, and taken to be so."""
        return self.payload.is_eof() and self.came != self.payload.total_bytes


class Clockwork:
    """What all connections of a door share: their register, who knows them, their deadlines."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        admission: Admission,
        doorkeeper: Doorkeeper,
        options: HttpOptions,
    ) -> None:
        self.admission = admission
        self.doorkeeper = doorkeeper
        self.arriving: Deadlines[Connection] = Deadlines(loop, options.request_timeout / 1000, Connection.late)
        self.committing: Deadlines[Connection] = Deadlines(loop, options.answer_timeout / 1000, Connection.overdue)
        self.stuck: Deadlines[Connection] = Deadlines(loop, options.write_timeout / 1000, Connection.abort)
        self.stalling: Deadlines[Connection] = Deadlines(loop, options.slow_after / 1000, Connection.stalled)
        self.unpacking = asyncio.Lock()

    def close(self) -> None:
        """Forget all deadlines."""
        self.arriving.close()
        self.committing.close()
        self.stuck.close()
        self.stalling.close()


class Connection(Serial):
    """See the module. A handler finds it as `request.protocol`; the register as an OpenConnection.

    `on_dismiss`: what a handler that stays for long wants done when the connection is dismissed. `interrupted`: with
    what error our own doing, not the client's, cancelled the handler.
    """

    __slots__ = (
        "_admitted",
        "_arriving",
        "_busy",
        "_clockwork",
        "_declined",
        "_exchanges",
        "_give_up",
        "_more",
        "_passing",
        "_received",
        "_silent",
        "_switched",
        "address",
        "authorization",
        "greeted",
        "id",
        "identity",
        "interrupted",
        "on_dismiss",
        "on_resume",
        "on_stall",
        "peer_names",
        "port",
        "request_id",
        "since",
    )

    def __init__(self, manager: web.Server, clockwork: Clockwork, exchanges: Exchanges, **options: Any) -> None:
        super().__init__(manager, **options)
        self._exchanges = exchanges
        self.id = ""
        self.since = 0.0
        self.address, self.port = UNIX, 0
        self.greeted: Identity | None = None  # who it is by place or certificate
        self.identity: Identity | None = None  # who the present request is of
        self.authorization: str | None = None  # the head that said so
        self.peer_names: tuple[str, ...] = ()  # of the client's certificate
        self.request_id = ""  # of the request that is being answered
        self.on_resume: Callable[[], None] | None = None  # the client reads again
        self.on_stall: Callable[[], None] | None = None  # it read nothing for `slow_after`
        self.on_dismiss: Callable[[BrokerError], None] | None = None
        self.interrupted: BrokerError | None = None
        self._clockwork = clockwork
        self._admitted = False
        self._arriving = False  # a request is due, its deadline runs
        self._busy = False  # a handler is at work
        self._more = False  # bytes of a later request came meanwhile
        self._give_up: Callable[[BrokerError], None] | None = None  # on the commit that is waited for
        self._silent = True  # nothing of the request that is due has come yet
        self._received = 0  # bytes of it that have
        self._switched = False  # it is a WebSocket now; then `_received` is of the text that is due
        self._declined: Declined | None = None
        self._passing = False  # what comes is the rest of a body that was answered already

    # Of the request

    def began(self, whole: bool) -> None:
        """A handler starts; `whole` when nothing of the request is still to come."""
        self.interrupted = None
        self._busy = True
        self._more = self._passing = False
        if whole:
            self.arrived()
        elif not self._arriving:  # its beginning came behind the request before
            self._expect(silent=False)

    def arrived(self) -> None:
        """The request is here to its end."""
        if self._arriving:
            self._arriving = False
            self._clockwork.arriving.end(self)

    def ended(self, whole: bool) -> None:
        """The handler is done; what came meanwhile belongs to the next request, unless the body was answered before it
        was here: then it is the rest of that, which nobody keeps and nobody answers."""
        self._busy, self._passing = False, not whole
        if self._more:
            self._expect(silent=self._passing)
        else:
            self.arrived()

    def switched(self) -> None:
        """It is a WebSocket from here on, or another whole text of one has come."""
        self._switched, self._received = True, 0

    def set_parser(self, parser: WebSocketReader, data_received_cb: Callable[[], None] | None = None) -> None:
        """See aiohttp. What comes from here on are frames."""
        super().set_parser(Masked(parser), data_received_cb)  # type: ignore[arg-type]  # of a reader it has what is used

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """The socket is another protocol's from here on, which gets what came behind the request too; this connection
        is gone, and its handler awaits nothing any more."""
        transport, self.transport = self.transport, None  # so that it stays open
        if transport is None:
            raise ConnectionResetError("the client is gone")
        tail, self._more = self._message_tail, False
        self.connection_lost(None)

        def begin() -> None:
            transport.set_protocol(protocol)
            transport.resume_reading()
            protocol.connection_made(transport)
            if tail:
                protocol.data_received(tail)

        Context().run(begin)  # nothing of it comes from the request

    def __enter__(self) -> None:
        """A handler waits for a commit: within `with`, its task is cancelled when that takes too long. Costs a tenth
        of asyncio.timeout, which makes a timer of its own for every request."""
        assert self._task_handler is not None
        self.commits(partial(self._interrupt, self._task_handler))

    def __exit__(self, *_: object) -> None:
        self.committed()

    def commits(self, give_up: Callable[[BrokerError], None]) -> None:
        """A request waits for a commit; when that takes too long, this is called."""
        self._give_up = give_up
        self._clockwork.committing.begin(self)

    def committed(self) -> None:
        """It waits no more."""
        self._give_up = None
        self._clockwork.committing.end(self)

    def overdue(self) -> None:
        """The commit took too long."""
        if self._give_up is not None:
            self._give_up(BrokerError(Code.TIMEOUT))

    def _interrupt(self, task: asyncio.Task[Any], error: BrokerError) -> None:
        if self.interrupted is None:  # the first reason counts
            self.interrupted = error
            task.cancel()

    def _expect(self, *, silent: bool) -> None:
        self._arriving, self._silent, self._received = True, silent, 0
        self._clockwork.arriving.begin(self)

    def late(self) -> None:
        """The request did not arrive in time: say so if it had begun, and go."""
        if self._silent:
            self.force_close()
        else:
            self._part_with(_LATE)

    def _part_with(self, answer: bytes) -> None:
        """Close with these last words."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(answer)
        self.force_close()

    def abort(self) -> None:
        """The client does not read: drop what is unsent and go."""
        if self.transport is not None:
            self.transport.abort()

    def stalled(self) -> None:
        """The client has not read for a while."""
        if self.on_stall is not None:
            self.on_stall()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """See aiohttp. A broken body, met again when the rest of it is passed over, was told to its sender; that a
        connection ended meanwhile is no fault."""
        ended = self.transport is None or self.transport.is_closing()
        if not ended and not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def prompt(self, message: Any, payload: StreamReader) -> Prompt | None:
        """See Serial."""
        return self._exchanges(self, message, payload)

    # Of the register

    @property
    def door(self) -> str:
        """See OpenConnection."""
        return "http"

    @property
    def principal(self) -> Principal | None:
        """See OpenConnection."""
        return None if self.identity is None else self.identity.principal

    @property
    def client(self) -> str:
        """HTTP clients are known by their principal alone."""
        return ""

    @property
    def arriving(self) -> int:
        """Bytes of a request or text that has not come to its end, unpacked ones when there are more."""
        return self._received if self._arriving or self._switched else 0

    @property
    def unsent(self) -> int:
        """Bytes that the client has not read."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def dismiss(self, error: BrokerError) -> None:
        """A stream or a poll ends with the error; a request that is here is answered first, half a one with the error;
        an idle connection just ends."""
        if self.on_dismiss is not None:
            self.on_dismiss(error)
        if self._arriving and not self._silent:
            self._part_with(raw_problem(error))
        elif self._busy and not self._arriving:
            self.close()  # after the answer
        else:
            self.force_close()

    def identify(self, identity: Identity, authorization: str | None) -> None:
        """It is known who the request is of. Raises RATE_LIMITED when that one has connections enough."""
        before, self.identity = self.identity, identity
        try:
            self._clockwork.admission.identify(self)
        except BrokerError:
            self.identity = before
            raise
        self.authorization = authorization

    @contextmanager
    def interruptible(self) -> Iterator[Callable[[BrokerError], None]]:
        """Within `with`, a handler waits for something that it may give up: dismissed, or told so by calling what this
        gives, its task is cancelled and the request answered with the error."""
        task = asyncio.current_task()
        assert task is not None
        self.on_dismiss = interrupt = partial(self._interrupt, task)
        try:
            yield interrupt
        finally:
            self.on_dismiss = None

    # Of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.address, self.port = peer_of(transport)
        self.peer_names = peer_names(transport)
        self.identity = self.greeted = self._clockwork.doorkeeper.greet(
            here=is_here(self.address), names=self.peer_names
        )
        try:
            self._clockwork.admission.admit(self)
        except BrokerError as error:
            self._part_with(raw_problem(error))
            return
        self._admitted = True
        self._expect(silent=True)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        if self._admitted:
            self._admitted = False
            self._clockwork.admission.leave(self)
        self._clockwork.arriving.end(self)
        self._clockwork.stuck.end(self)
        self._clockwork.stalling.end(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. aiohttp itself calls it with nothing, to go on with what it kept."""
        if data:
            self._note_bytes(len(data))
        super().data_received(data)
        if self._switched and len(data) >= LARGE_READ:
            self._give_way()
        if self._messages:
            self._cut_cycle(self._messages[-1][0])
            self._look_behind(data)
        elif self._declined is not None:
            self._declined.came += len(data)
            if self._declined.behind:
                self.close()  # after the answer
            if self._declined.payload.is_eof():
                self._declined = None
        self._clockwork.admission.received(len(data))

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps one open
        """See asyncio.Protocol. A client may close its side once it has asked: what waits for its commit, or for its
        turn, is answered. Who polls or follows is taken to be gone."""
        waits = self._give_up is not None or bool(self._messages and self._messages[-1][1].is_eof())
        self._last = waits and self.transport is not None and self.transport.can_write_eof()  # by TLS it cannot be
        return self._last

    def _give_way(self) -> None:
        """Read on in the next turn of the loop: of a socket that is always full uvloop reads 32 buffers in one, which
        in small frames are some hundred milliseconds of work."""
        if not self._buffer_paused:
            self._pause_reading_for_buffer()
            self._loop.call_soon(self._resume_reading_for_buffer)

    def _look_behind(self, data: bytes) -> None:
        """aiohttp's parser drops what came in one read with the end of a request that asks for a protocol unknown to
        it, such as h2c. When anything did, or who knows, that request is the last, so that nobody waits for the answer
        to another. One by itself is like any other: some clients ask for h2c each time."""
        message, payload = self._messages[-1]
        if not isinstance(message, RawRequestMessage) or not message.upgrade or self._upgraded:
            return
        alone = len(self._messages) == 1 and self._received == len(data) and not self._more
        declined = Declined(payload, len(data.partition(_HEAD_ENDS)[2]))
        if alone and not payload.is_eof():
            self._declined = declined
        elif not alone or declined.behind:
            self._messages[-1] = message._replace(should_close=True), payload

    def _cut_cycle(self, message: Any) -> None:
        """What could not be parsed is kept as an exception; its frames hold it, and all that was read with it. The
        collector would come by only after some hundred megabytes of them."""
        error = getattr(message, "exc", None)
        if error is not None:
            error.__traceback__ = None

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See aiohttp. It asks after each body; what was not paused has nothing to go on with."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _note_bytes(self, count: int) -> None:
        if not self._arriving and not self._switched:
            if self._busy:
                self._more = True
                return
            self._expect(silent=True)
        if not self._passing:
            self._silent = False
            self._received += count

    @property
    def unpacking(self) -> asyncio.Lock:
        """Held while a piece of a body is unpacked and for a turn of the loop after it, in which they go who are let go
        for its size: many small pieces that come at once are not all unpacked at once."""
        return self._clockwork.unpacking

    def unpacked(self, count: int) -> None:
        """So many bytes of the request's body are kept, unpacked, while more is waited for."""
        more = count - self._received
        if more > 0:
            self._received = count
            self._clockwork.admission.received(more)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._clockwork.admission.sent(self.unsent)
        self._clockwork.stuck.begin(self)
        self._clockwork.stalling.begin(self)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._clockwork.stuck.end(self)
        self._clockwork.stalling.end(self)
        if self.on_resume is not None:
            self.on_resume()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp could not parse a request, or a handler let an exception through."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the answer had begun when it failed, or nobody is there to hear it")
        if isinstance(exc, http_exceptions.LineTooLong):
            status = 431
        elif status >= 500:
            self.log_exception("HTTP request failed", exc_info=exc)
            return problem(BrokerError(Code.INTERNAL), close=True)
        detail = " ".join((message or "").split())[:300]
        if access_wanted(failed=True):
            address = host_port(self.address, self.port)
            access("no request", failed=True, door=self.door, address=address, status=status, error=detail)
        return problem(BrokerError(Code.BAD_REQUEST, detail), status, close=True)
