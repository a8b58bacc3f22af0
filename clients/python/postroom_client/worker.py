"""Functions that work off a queue: a fixed number of lanes, each taking one message after the other.

A return acks, an exception asks for a retry, `Reject` and `Retry` say otherwise; a body that cannot be decoded is
rejected at once. Plain functions run in threads, one per lane.
"""

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_type_hints

from postroom_client.body import Decoder, decoder_of
from postroom_client.consumer import Consumer
from postroom_client.errors import DecodeFailed, Reject, Retry
from postroom_client.message import LoggedMessage, Message
from postroom_client.thread import ThreadMessage

logger = logging.getLogger("postroom_client")

Function = Callable[..., Any]


@dataclass(slots=True)
class Binding:
    """How a function takes a message: `(value)`, `(value, message)`, `(message)` or nothing."""

    decoder: Decoder | None
    value: bool
    message: bool

    def arguments(self, data: Callable[[], Any], message: Any) -> tuple[Any, ...]:
        """The arguments of one call; `data` gives the decoded value."""
        taken = (data(),) if self.value else ()
        return (*taken, message) if self.message else taken


def bind(function: Function, decode: Any = None) -> Binding:
    """Look at a function's parameters. The first gets the decoded body when it is annotated with another type than a
    message's, or `decode` is given; a message's type, or no annotation, gets the message. Raises TypeError."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(names) > 2 or any(p.kind is p.KEYWORD_ONLY for p in parameters):
        raise TypeError(f"{function.__qualname__} must take a value, a message, or both: {names}")
    wanted = _annotation(function, names[0]) if names else None
    plain = wanted is None or (isinstance(wanted, type) and issubclass(wanted, LoggedMessage | ThreadMessage))
    if not names or (decode is None and plain and len(names) == 1):
        return Binding(decoder_of(decode) if decode is not None else None, value=False, message=bool(names))
    chosen = decode if decode is not None else None if plain else wanted
    return Binding(None if chosen is None else decoder_of(chosen), value=True, message=len(names) == 2)


def _annotation(function: Function, name: str) -> Any:
    try:
        return get_type_hints(function).get(name)
    except (NameError, TypeError) as error:
        raise TypeError(f"the annotation of {name} in {function.__qualname__} cannot be resolved: {error}") from None


@dataclass(slots=True, kw_only=True)
class Options:
    """What `Client.worker` was told. `subscription` is put at start when `topics` are given."""

    queue: str
    topics: Sequence[str] = ()
    concurrency: int = 16
    prefetch: int | None = None
    timeout: float | None = None
    subscription: dict[str, Any] = field(default_factory=dict)


class Worker:
    """One function on one queue."""

    def __init__(self, function: Function, options: Options, decode: Any = None) -> None:
        self.function = function
        self.options = options
        self.binding = bind(function, decode)
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        )
        self._threads: ThreadPoolExecutor | None = None

    async def run(self, consumer: Consumer) -> None:
        """Work until the consumer is quieted. Raises why the broker let go of it. Cancelled: what is in hand is
        released."""
        if not self.is_async:
            self._threads = ThreadPoolExecutor(self.options.concurrency, f"postroom-{self.options.queue}")
        call = self._async_call() if self.is_async else self._thread_call
        lanes = [asyncio.ensure_future(self._lane(consumer, call)) for _ in range(self.options.concurrency)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            if self._threads is not None:
                self._threads.shutdown(wait=False)

    def _async_call(self) -> Callable[[Message], Awaitable[Any]]:
        """How a message is handed to an async function: nothing between where nothing is asked for."""
        binding, function = self.binding, self.function
        if binding.value or not binding.message or self.options.timeout is not None:
            return self._bound_call
        direct: Callable[[Message], Awaitable[Any]] = function
        return direct

    async def _bound_call(self, message: Message) -> Any:
        arguments = self.binding.arguments(lambda: message.data, message)
        async with asyncio.timeout(self.options.timeout):
            return await self.function(*arguments)

    async def _thread_call(self, message: Message) -> Any:
        loop = asyncio.get_running_loop()
        arguments = self.binding.arguments(lambda: message.data, ThreadMessage(message, loop))
        call = partial(contextvars.copy_context().run, self.function, *arguments)
        return await asyncio.wait_for(loop.run_in_executor(self._threads, call), self.options.timeout)

    async def _lane(self, consumer: Consumer, call: Callable[[Message], Awaitable[Any]]) -> None:
        """On the path of every message."""
        while (message := await consumer.take()) is not None:
            try:
                result = await call(message)
                if result is not None:
                    await _answer(message, result)
            except Exception as error:
                self._failed(message, error)
            except BaseException as stopped:
                message.end(stopped)
                raise
            else:
                message.end(None)

    def _failed(self, message: Message, error: Exception) -> None:
        level = logging.INFO if isinstance(error, Retry | Reject) else logging.WARNING
        trace = error if level == logging.WARNING and not isinstance(error, DecodeFailed) else None
        text = "%s failed on message %s of %s (attempt %d): %s"
        name = getattr(self.function, "__qualname__", str(self.function))
        logger.log(level, text, name, message.id, self.options.queue, message.attempt, error, exc_info=trace)
        message.end(Reject(f"DecodeFailed: {error}") if isinstance(error, DecodeFailed) else error)


async def _answer(message: Message, result: Any) -> None:
    """What a function returns is the answer, if one was asked for."""
    if "reply-to" in message.headers:
        await message.reply(result)
