"""aiohttp's loop over the requests of a connection, less the task that it makes for each: an eighth of a publish.

A handler runs in the connection's own task, so that what it leaves in context variables stays there until the next
request sets it anew. Follows `RequestHandler.start` of aiohttp 3.14, whose names it uses. Floor 4.
"""

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.http import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _PAYLOAD_ACCESS_ERROR, ERROR, _ErrInfo


class Serial(web.RequestHandler):
    """See the module."""

    __slots__ = ()

    async def start(self) -> None:
        """Until the connection closes: take a request, have it handled, be ready for the next."""
        manager = self._manager
        assert manager is not None
        while not self._force_close:
            if not self._messages:
                await self._arrival()
            message, payload = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            manager.requests_count += 1
            if not await self._exchange(message, payload):
                break
            if not self._keepalive or self._close or self._force_close:
                break
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
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

    async def _exchange(self, message: Any, payload: StreamReader) -> bool:
        """Answer one request; False when nobody is there any more."""
        handler, writer = self._request_handler, StreamWriter(self, self._loop)
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
