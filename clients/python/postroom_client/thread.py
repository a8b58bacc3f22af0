"""Calls from other threads into the loop's, and a message for those who work there."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from postroom_client.message import Message
from postroom_client.receipt import Receipt

T = TypeVar("T")


def wait_for(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run a coroutine on the loop's thread and wait for it here. Interrupted, it is cancelled."""
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result(timeout)
    except BaseException:
        future.cancel()
        raise


def call(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> T:
    """Call a function on the loop's thread and wait for what it returns or raises."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    loop.call_soon_threadsafe(run)
    return result.result()


class ThreadMessage:
    """A `Message` for a thread that is not the loop's: the same attributes; `with message:` settles it at its end, and
    the other verbs return when they have taken effect in the client."""

    __slots__ = ("_loop", "_message")

    def __init__(self, message: Message, loop: asyncio.AbstractEventLoop) -> None:
        self._message = message
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def ack(self) -> None:
        """It is done."""
        call(self._loop, self._message.ack)

    def retry(self, delay: float | None = None, error: str | None = None) -> None:
        """It failed: again in `delay` seconds, or as the retry policy says."""
        call(self._loop, lambda: self._message.retry(delay, error))

    def reject(self, error: str | None = None) -> None:
        """To the dead letters."""
        call(self._loop, lambda: self._message.reject(error))

    def release(self) -> None:
        """Not now, not me."""
        call(self._loop, self._message.release)

    def extend(self, seconds: float) -> None:
        """Hold it for so long from now."""
        call(self._loop, lambda: self._message.extend(seconds))

    def settle(self, outcome: str, *, delay: float | None = None, error: str | None = None) -> None:
        """Settle and wait for the commit."""
        wait_for(self._loop, self._message.settle(outcome, delay=delay, error=error))

    def reply(self, body: Any, **options: Any) -> Receipt:
        """Answer a request."""
        return wait_for(self._loop, self._message.reply(body, **options))

    def __enter__(self) -> "ThreadMessage":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._message.end, error)

    def __repr__(self) -> str:
        return repr(self._message)
