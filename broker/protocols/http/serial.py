"""aiohttp's loop over the requests of a connection, less the task that it makes for each: an eighth of a publish.

A handler runs in the connection's own task, so that what it leaves in context variables stays there until the next
request sets it anew. A request that needs no task at all, because it is here to its end and will be answered by a call,
does not even wake that one: see `Prompt`. Follows `RequestHandler` of aiohttp 3.14, whose names it uses. Floor 4.
"""

import asyncio
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _PAYLOAD_ACCESS_ERROR, ERROR, _ErrInfo

_UNSPOKEN = BadHttpMessage("the request line ends in HTTP/1.1 or HTTP/1.0; no other version is spoken here")


class Prompt(Protocol):
    """A request that is answered without a task."""

    def begin(self) -> None:
        """Do it; `Serial.answered` is called now or later, once, unless the connection is lost before."""

    def lost(self) -> None:
        """Nobody is there any more to be answered."""


class Serial(web.RequestHandler):
    """See the module."""

    __slots__ = ("_last", "_prompt")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._prompt: Prompt | None = None  # being answered
        self._last = False  # nothing more comes; what is here is answered

    async def start(self) -> None:
        """Until the connection closes: take a request, have it handled, be ready for the next."""
        while not self._force_close:
            if not self._messages:
                await self._arrival()
            message, payload = self._next()
            if not await self._exchange(message, payload):
                break
            if not self._keepalive or self._close or self._force_close or self._done:
                break
            self._stay()
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _arrival(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _next(self) -> tuple[Any, StreamReader]:
        manager = self._manager
        assert manager is not None
        manager.requests_count += 1
        message, payload = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return message, payload

    @property
    def _done(self) -> bool:
        """Is the last answer given?"""
        return self._last and not self._messages

    def _stay(self) -> None:
        """A request was answered: the next has its time to come."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    # Without a task

    def prompt(self, message: Any, payload: StreamReader) -> Prompt | None:
        """How a request is answered without a task; None when it needs one."""
        return None

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        waiter, self._waiter = self._waiter, None  # so that the task is not woken for what does not need it
        super().data_received(data)
        if waiter is not None:
            self._waiter = waiter
            self._take()

    def _take(self) -> None:
        """Look at what came while the task waits for a request."""
        waiter = self._waiter
        if not self._messages or self._prompt is not None or waiter is None or waiter.done():
            return
        prompt = None if self.writing_paused else self.prompt(*self._messages[0])
        if prompt is None:
            waiter.set_result(None)
            return
        self._prompt = prompt
        self._request_in_progress = True
        self._next()
        prompt.begin()

    def answered(self, answer: bytes, *, close: bool = False) -> None:
        """The request that needed no task has its answer."""
        self._prompt = None
        self._request_in_progress = False
        if self.transport is not None:
            self.transport.write(answer)
        if self._handler_waiter is not None:
            self._handler_waiter.set_result(None)
            self._handler_waiter = None
        if close or self._close or self._done:
            self.force_close()  # which sends what was written
            return
        self._stay()
        if self._messages:
            self._loop.call_soon(self._take)  # not at once: it may be answered while it is taken, and so on

    def _process_keepalive(self) -> None:
        if self._prompt is not None:  # while the task waits, aiohttp takes the connection for idle
            self._stay()
        super()._process_keepalive()

    def close(self) -> None:
        """See aiohttp."""
        if self._prompt is None:
            super().close()
        else:
            self._close = True  # after the answer

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        prompt, self._prompt = self._prompt, None
        if prompt is not None:
            prompt.lost()
        super().connection_lost(exc)

    # In the connection's task

    async def _exchange(self, message: Any, payload: StreamReader) -> bool:
        """Answer one request; False when nobody is there any more."""
        handler, writer = self._request_handler, StreamWriter(self, self._loop)
        if not isinstance(message, _ErrInfo) and message.version not in (HttpVersion11, HttpVersion10):
            message = _ErrInfo(_UNSPOKEN.code, _UNSPOKEN, _UNSPOKEN.message)
        if isinstance(message, _ErrInfo):
            handler, message = self._make_error_handler(message), ERROR
        assert handler is not None
        assert self._request_factory is not None
        task: Any = self._task_handler or asyncio.current_task()
        request = self._request_factory(message, payload, self, writer, task)
        try:
            response, gone = await self._handle_request(request, None, handler)
            if gone:
                return False
            self._keepalive = bool(response.keep_alive)
            if not payload.is_eof():
                await self._pass_over(payload)
            payload.set_exception(_PAYLOAD_ACCESS_ERROR)
        except ConnectionError:
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception as error:  # whatever it was, this connection is done
            self.log_exception("Unhandled exception", exc_info=error)
            self.force_close()
        finally:
            request._task = None  # type: ignore[assignment]  # no cycle
        return True

    async def _pass_over(self, payload: StreamReader) -> None:
        """Read the rest of a refused body for a while, so that its sender sees the refusal; then close."""
        if not self._force_close and self._lingering_time:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lingering_time):
                    while not payload.is_eof():
                        await payload.readany()
        if not payload.is_eof() and not self._force_close:
            self.close()
