"""A small JSON answer whose head is written by hand: this is on the path of every publish, and aiohttp's own response
costs twice as much as all that we do for one. Floor 4."""

from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

JSON = "application/json"
END, CLOSE = "\r\n", "Connection: close\r\n\r\n"
"""How a head ends: the connection stays, or does not."""
_BEGIN = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: " for status in HTTPStatus}


def written(status: int, kind: str, body: bytes, more: str, end: str) -> bytes:
    """A whole response. `more`: further lines of its head; `end`: END, CLOSE or other lines up to the empty one."""
    date = rfc822_formatted_time()
    head = f"{_BEGIN[status]}{kind}\r\nContent-Length: {len(body)}\r\nDate: {date}\r\n{more}{end}"
    return head.encode() + body


class Reply(web.StreamResponse):
    """Knows JSON of a known length, to be sent at once and whole; headers that others add are kept."""

    def __init__(self, text: bytes, status: int = 200) -> None:
        super().__init__(status=status)
        self._text = text

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """See aiohttp. The head goes with the body."""
        self._payload_writer = request.writer
        self._transport = request.transport
        self._protocol = request.protocol
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        await request._prepare_hook(self)  # where headers are added that every answer has
        self._tail = self._connection(request)
        return self._payload_writer

    def _connection(self, request: web.BaseRequest) -> str:
        if not self._keep_alive:
            return CLOSE
        return END if request.version >= (1, 1) else f"Connection: keep-alive\r\n{END}"

    async def write_eof(self, data: bytes = b"") -> None:
        """See aiohttp."""
        writer = self._payload_writer
        if writer is None or self._eof_sent:
            return
        self._eof_sent = True
        self._payload_writer = None
        more = "".join([f"{name}: {value}\r\n" for name, value in self._headers.items()])
        answer = written(self.status, JSON, self._text, more, self._tail)
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        writer.output_size += len(answer)
        transport.write(answer)
        if self._protocol.writing_paused:  # the next request waits until the client has read
            await writer.drain()
