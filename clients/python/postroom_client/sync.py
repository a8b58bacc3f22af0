"""The same client for programs without an event loop: it runs one on a thread of its own and waits for it.

with postroom_client.sync.connect() as b:
    b.publish("orders/created", {"id": 7})
    for message in b.consume("orders"):
        with message:
            handle(message.data)
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

from postroom_client.address import parse_address
from postroom_client.administration import Page
from postroom_client.client import Client as AsyncClient
from postroom_client.deliveries import Deliveries as AsyncDeliveries
from postroom_client.message import LoggedMessage
from postroom_client.receipt import Receipt
from postroom_client.stream import Stream as AsyncStream
from postroom_client.thread import ThreadMessage, call, wait_for
from postroom_client.transaction import Transaction

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def connect(url: str | None = None, **options: Any) -> "Client":
    """A connected client, also for `with`. Arguments as for `postroom_client.connect`."""
    return Client(url, **options)


class Client:
    """See the module; each verb is that of the asynchronous client, and returns when that would have."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._client = AsyncClient(parse_address(url), **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postroom", daemon=True)
        self._thread.start()
        try:
            self._wait(self._client.open())
        except BaseException:
            self._end()
            raise

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return wait_for(self._loop, coroutine)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def close(self) -> None:
        """Wait for what is unconfirmed, say goodbye, and go. Closing twice does nothing."""
        if not self._loop.is_closed():
            try:
                self._wait(self._client.close())
            finally:
                self._end()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Publishing

    def publish(self, topic: str, body: Any, **options: Any) -> Receipt:
        """Publish; returns when the message is on disk."""
        return self._wait(self._client.publish(topic, body, **options))

    def publish_many(self, messages: Iterable[Sequence[Any]], *, atomic: bool = False) -> list[Receipt]:
        """Publish `(topic, body)` or `(topic, body, options)` each; returns when all are on disk."""
        return self._wait(self._client.publish_many(messages, atomic=atomic))

    @contextmanager
    def transaction(self) -> Generator[Transaction, None, None]:
        """Publish, settle and set keys in one commit, at the end of the block."""
        transaction = self._client.transaction()
        yield transaction
        self._wait(transaction.commit())

    def request(self, topic: str, body: Any, timeout: float = 10.0, **options: Any) -> LoggedMessage:
        """Publish, and wait for the reply. Raises TimeoutError."""
        return self._wait(self._client.request(topic, body, timeout, **options))

    # Reading and working

    def consume(self, queue: str, **options: Any) -> "Deliveries":
        """The messages of a queue: `for m in client.consume("mail"): with m: ...`."""
        return Deliveries(self._loop, call(self._loop, lambda: self._client.consume(queue, **options)))

    def stream(self, name: str | None = None, **options: Any) -> "Stream":
        """A named stream, or `topics` from a place on."""
        return Stream(self._loop, call(self._loop, lambda: self._client.stream(name, **options)))

    def worker(self, queue: str, **options: Any) -> Callable[[F], F]:
        """A function works off a queue while `run` runs."""
        return self._client.worker(queue, **options)

    def run(self, *, grace: float = 30.0, signals: bool = True) -> None:
        """Run the workers until `stop`, or SIGTERM or SIGINT when called in the main thread."""
        running = asyncio.run_coroutine_threadsafe(self._client.run(grace=grace, signals=False), self._loop)
        with _signals(self.stop) if signals else _nothing():
            running.result()

    def stop(self) -> None:
        """End `run` in order; from any thread or signal handler."""
        self._loop.call_soon_threadsafe(self._client.stop)

    # Management

    def put_subscription(self, name: str, topics: Iterable[str] | str, **options: Any) -> bool:
        """Create or change a subscription; True when created."""
        return self._wait(self._client.put_subscription(name, topics, **options))

    def subscription(self, name: str) -> dict[str, Any]:
        """Settings and counts."""
        return self._wait(self._client.subscription(name))

    def subscriptions(self) -> list[dict[str, Any]]:
        """The same of all."""
        return self._wait(self._client.subscriptions())

    def delete_subscription(self, name: str) -> None:
        """Its consumers are detached, its progress is forgotten."""
        self._wait(self._client.delete_subscription(name))

    def pause(self, name: str) -> None:
        """Hand out nothing until `resume`."""
        self._wait(self._client.pause(name))

    def resume(self, name: str) -> None:
        """Hand out again."""
        self._wait(self._client.resume(name))

    def peek(self, name: str, limit: int = 10) -> list[LoggedMessage]:
        """The oldest outstanding messages, untouched."""
        return self._wait(self._client.peek(name, limit))

    def purge(self, name: str) -> int:
        """Settle all that is outstanding and not leased; how many."""
        return self._wait(self._client.purge(name))

    def redrive(self, name: str, limit: int = 10_000) -> int:
        """Put dead letters back; how many."""
        return self._wait(self._client.redrive(name, limit))

    def purge_dead(self, name: str, limit: int = 10_000) -> int:
        """See `Client.purge_dead`."""
        return self._wait(self._client.purge_dead(name, limit))

    def read(self, topics: Iterable[str] | str, from_: str | int = "earliest", limit: int = 1000) -> Page:
        """A piece of the log."""
        return self._wait(self._client.read(topics, from_, limit))

    def topics(self) -> list[dict[str, Any]]:
        """Every topic with messages."""
        return self._wait(self._client.topics())

    def scheduled(self, limit: int = 100) -> list[dict[str, Any]]:
        """What waits for its time."""
        return self._wait(self._client.scheduled(limit))

    def cancel(self, schedule_id: str) -> bool:
        """True when it waited and now never comes."""
        return self._wait(self._client.cancel(schedule_id))

    def get(self, key: str) -> tuple[bytes, int] | None:
        """(value, revision) of a key, or None."""
        return self._wait(self._client.get(key))

    def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin with `prefix`."""
        return self._wait(self._client.keys(prefix))

    def status(self) -> dict[str, Any]:
        """The broker's numbers."""
        return self._wait(self._client.status())


class Deliveries:
    """`for message in deliveries`, until `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliveries: AsyncDeliveries) -> None:
        self._loop = loop
        self._deliveries = deliveries

    def __iter__(self) -> Iterator[ThreadMessage]:
        return self

    def __next__(self) -> ThreadMessage:
        return self.receive()

    def receive(self, timeout: float | None = None) -> ThreadMessage:
        """The next message. Raises TimeoutError after `timeout` seconds, StopIteration when closed."""
        message = wait_for(self._loop, _next(self._deliveries, timeout))
        if message is None:
            raise StopIteration
        return ThreadMessage(message, self._loop)

    def close(self) -> None:
        """Stop; what is in hand goes back."""
        wait_for(self._loop, self._deliveries.close())

    def __enter__(self) -> "Deliveries":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream:
    """`for message in stream`; `position`, `recovered` and `commit` as in the asynchronous Stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: AsyncStream) -> None:
        self._loop = loop
        self._stream = stream

    @property
    def position(self) -> str | None:
        """Keep it to read on behind the last message taken."""
        return self._stream.position

    @property
    def recovered(self) -> bool:
        """False: something between is gone."""
        return self._stream.recovered

    def __iter__(self) -> Iterator[LoggedMessage]:
        return self

    def __next__(self) -> LoggedMessage:
        return self.receive()

    def receive(self, timeout: float | None = None) -> LoggedMessage:
        """The next message. Raises TimeoutError after `timeout` seconds, StopIteration when closed."""
        message: LoggedMessage | None = wait_for(self._loop, _next(self._stream, timeout))
        if message is None:
            raise StopIteration
        return message

    def commit(self, message: LoggedMessage | None = None) -> None:
        """Move the cursor of a named stream; returns once on disk."""
        wait_for(self._loop, self._stream.commit(message))

    def close(self) -> None:
        """Stop reading."""
        wait_for(self._loop, self._stream.close())

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _next(reader: Any, timeout: float | None) -> Any:
    """None at the end: StopIteration does not travel between threads."""
    async with asyncio.timeout(timeout):
        async for message in reader:
            return message
    return None


@contextmanager
def _signals(stop: Callable[[], None]) -> Generator[None, None, None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def caught(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop()

    before = {number: signal.signal(number, caught) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _nothing() -> Generator[None, None, None]:
    yield
