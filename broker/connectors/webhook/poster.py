"""One attempt over HTTP, with the manners of Standard Webhooks: no redirects, a total deadline, a bounded response.

It turns whatever happens on the network into an Answer and never raises for it. The guard sees every address that is
connected to; proxies of the environment are ignored because behind one the guard would see the proxy only. Floor 4.
"""

import asyncio
import io
from collections.abc import Callable

import aiohttp

from broker.connectors.webhook.answer import Answer, excerpt_of, judge
from broker.connectors.webhook.guard import guarded_sockets
from broker.connectors.webhook.options import Target, WebhookOptions
from broker.connectors.webhook.request import Request

_FRESH = 1.0
"""Seconds within which a dropped connection is taken for a stale one of the pool and tried once more."""

_BODY_WAIT = 1.0
"""Seconds given to the body of a response; its status is what counts."""

_LARGE_BODY = 1 << 20
"""Bytes from which aiohttp wants a file to send from, so that it does not write all at once."""


class Poster:
    """The HTTP client of all webhooks. `open` and `close` belong to the loop that posts."""

    def __init__(self, options: WebhookOptions, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._options = options
        self._wall = wall
        self._monotonic = monotonic
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Make the session; nothing is connected yet."""
        # No limit of the pool's own: each endpoint and the sender bound what is under way, and a wait for a
        # connection would count against the endpoint's deadline.
        connector = aiohttp.TCPConnector(limit=0, socket_factory=guarded_sockets(self._options.allow))
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
        )

    async def close(self) -> None:
        """Drop all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, target: Target, secrets: tuple[bytes, ...], request: Request) -> Answer:
        """Try once; a connection of the pool that turns out stale is replaced once within the same deadline."""
        begun = self._monotonic()
        try:
            async with asyncio.timeout(target.timeout / 1000):
                try:
                    response = await self._send(target, secrets, request)
                except (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError):
                    if self._monotonic() - begun > _FRESH:
                        raise
                    response = await self._send(target, secrets, request)
        except TimeoutError:
            return Answer(f"no answer within {target.timeout / 1000:g} s")
        except aiohttp.ClientConnectorError as error:
            return Answer(f"cannot connect: {error.os_error}"[:500])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(f"no valid answer: {type(error).__name__}: {excerpt_of(str(error).encode(errors='replace'))}")
        return await self._judge(response)

    async def _send(self, target: Target, secrets: tuple[bytes, ...], request: Request) -> aiohttp.ClientResponse:
        assert self._session is not None, "open() comes first"
        body = request.message.body
        return await self._session.post(
            target.url,
            data=io.BytesIO(body) if len(body) > _LARGE_BODY else body,
            headers=request.headers(target.headers, secrets, self._wall()),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def _judge(self, response: aiohttp.ClientResponse) -> Answer:
        try:
            excerpt = excerpt_of(await self._read(response))
        finally:
            response.release()
        headers = response.headers
        return judge(response.status, headers.get("Retry-After"), headers.get("Location"), excerpt, self._wall())

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """At most `max_response` bytes; when there are more or they don't come, the connection is given up."""
        kept = bytearray()
        try:
            async with asyncio.timeout(_BODY_WAIT):
                while chunk := await response.content.read(self._options.max_response + 1 - len(kept)):
                    kept += chunk
                    if len(kept) > self._options.max_response:
                        break
                else:
                    return bytes(kept)
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        response.close()
        return bytes(kept[: self._options.max_response])
