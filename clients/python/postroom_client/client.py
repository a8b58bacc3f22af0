"""The client: publish, consume, work, follow, ask. One of these per process and event loop is enough."""

import asyncio
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

from postroom_client.address import Address, parse_address
from postroom_client.administration import Administration
from postroom_client.backoff import Backoff
from postroom_client.batch import Draft, Group
from postroom_client.body import decoder_of
from postroom_client.connection import Connection
from postroom_client.consumer import Consumer
from postroom_client.credential import credentials
from postroom_client.credit import Credit
from postroom_client.crew import Crew
from postroom_client.deliveries import Deliveries
from postroom_client.draft import make_draft, traced
from postroom_client.errors import WindowFull
from postroom_client.inbox import Inbox
from postroom_client.message import LoggedMessage
from postroom_client.outbox import Outbox
from postroom_client.receipt import Receipt
from postroom_client.reply import ReplyBox
from postroom_client.stream import Stream
from postroom_client.tls import Shown, Trust, make_context
from postroom_client.transaction import Transaction
from postroom_client.worker import Function, Options, Worker

F = TypeVar("F", bound=Function)
MOST_PREFETCH = 4096


def connect(url: str | None = None, **options: Any) -> "Client":
    """A client for `async with`. `url`: `postroom://host:7600`, `postrooms://host:7600` by TLS or
    `postroom+unix:///path`; None: POSTROOM_URL, else the daemon on this machine. `options`: see Client."""
    return Client(parse_address(url), **options)


class Client(Administration):
    """See the module; made by `connect`.

    `name` goes to the broker's logs. `publisher` is the lasting id under which retries are recognised; drawn at random
    unless given. `window`: how many messages may be unconfirmed. `timeout`: seconds for the first connection;
    afterwards a lost one is restored for as long as it takes. `close_timeout`: seconds that closing waits for confirms.
    `token`, or `user` and `password`: who this is; None: POSTROOM_TOKEN, else nobody asks.
    `tls`: an SSLContext or a PEM file of the authorities to trust; None: POSTROOM_CA, else the system's.
    `certificate`: the client's own, a PEM file with its key or (certificate, key). `trace`: called for each message
    that is published; what it returns (`{"traceparent": …}`) goes into its headers, unless they have it.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str | None = None,
        publisher: str | None = None,
        token: str | None = None,
        user: str | None = None,
        password: str | None = None,
        window: int = 4096,
        timeout: float = 10.0,
        close_timeout: float = 10.0,
        backoff: Backoff | None = None,
        tls: Trust = None,
        certificate: Shown = None,
        trace: Callable[[], Mapping[str, str] | None] | None = None,
    ) -> None:
        self.address = address
        self._context = make_context(address, tls, certificate)
        self._trace = trace
        self.publisher = publisher or uuid.uuid4().hex
        self._hello: dict[str, Any] = {"client": name or f"python@{socket.gethostname()}", "publisher": self.publisher}
        self._hello["features"] = ["slowed"]
        self._hello |= credentials(token or address.token, user, password)
        self._outbox = Outbox(window)
        self._backoff = backoff or Backoff()
        self._timeout = timeout
        self._close_timeout = close_timeout
        self._connection: Connection
        self._replies: ReplyBox | None = None
        self._max_body = 1 << 20
        self._workers: list[Worker] = []
        self._crew: Crew | None = None

    # Life

    async def open(self) -> "Client":
        """Connect; `async with` does it. Raises ConnectionLost within `timeout`, or the broker's refusal."""
        self._connection = Connection(self.address, self._hello, self._outbox, self._backoff, context=self._context)
        self._loop = asyncio.get_running_loop()
        await self._connection.open(self._timeout)
        self._max_body = int(self._connection.settings.get("max_body") or self._max_body)
        return self

    async def close(self) -> None:
        """Wait for what is unconfirmed, say goodbye, and go."""
        await self._connection.close(self._close_timeout)

    async def __aenter__(self) -> "Client":
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Is there a connection just now?"""
        return self._connection.connected

    @property
    def epoch(self) -> str:
        """Of the broker's log."""
        return self._outbox.epoch

    @property
    def unconfirmed(self) -> int:
        """How many messages are not known to be on disk."""
        return self._outbox.count

    # Publishing

    async def publish(
        self,
        topic: str,
        body: Any,
        *,
        id: str | None = None,  # noqa: A002
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        priority: int | None = None,
        ttl: float | timedelta | None = None,
        delay: float | timedelta | None = None,
        due: datetime | float | None = None,
    ) -> Receipt:
        """Publish, and wait until the message is on disk.

        Many at once are pipelined: what is published in one turn of the loop leaves in one frame. `body`: bytes, text,
        or anything that JSON can say. `id`: the same id on the same topic is stored once. `ttl`, `delay`: seconds or a
        timedelta. Cancelled, the message may or may not be published. Raises PostroomError for a refusal."""
        options: dict[str, Any] = {}
        if id or key or headers or content_type or priority or ttl is not None or delay is not None or due is not None:
            options = {"id": id, "key": key, "headers": headers, "content_type": content_type}
            options |= {"priority": priority, "ttl": ttl, "delay": delay, "due": due}
        draft = self._draft(topic, body, options)
        if self._outbox.full:
            await self._connection.room()
        return await self._add(draft)

    async def publish_soon(self, topic: str, body: Any, **options: Any) -> "asyncio.Future[Receipt]":
        """Publish, and wait only for room in the window; the future is of the receipt. `flush` waits for all."""
        draft = self._draft(topic, body, options)
        if self._outbox.full:
            await self._connection.room()
        return self._add(draft)

    def publish_nowait(self, topic: str, body: Any, **options: Any) -> "asyncio.Future[Receipt]":
        """Publish without waiting for anything. Raises WindowFull; `room` waits until there is some."""
        draft = self._draft(topic, body, options)
        if self._outbox.full:
            raise WindowFull(self._outbox.limit)
        return self._add(draft)

    def _add(self, draft: Draft) -> "asyncio.Future[Receipt]":
        connection = self._connection
        if connection.error is not None:
            raise connection.error
        waiter: asyncio.Future[Receipt] = self._loop.create_future()
        self._outbox.add(draft, waiter)
        connection.write_soon()
        return waiter

    async def publish_many(self, messages: Iterable[Sequence[Any]], *, atomic: bool = False) -> list[Receipt]:
        """Publish `(topic, body)` or `(topic, body, options)` each, and wait until all are on disk.

        `atomic`: all or none, in one transaction (at most one frame's worth). Otherwise, when some are refused, raises
        PartlyRefused with the result of each."""
        drafts = [self._draft(m[0], m[1], m[2] if len(m) > 2 else {}) for m in messages]
        waiter: asyncio.Future[list[Receipt]] = self._loop.create_future()
        group = Group(waiter, len(drafts))
        if not drafts:
            return []
        end = 0
        while end < len(drafts):
            start = end
            await self._connection.room()
            end = len(drafts) if atomic else self._outbox.batch_end(drafts, start)
            self._outbox.add_group(drafts[start:end], group, start, atomic=atomic)
            self._connection.write_soon()
        return await waiter

    async def room(self) -> None:
        """Wait until the window has room for a message."""
        await self._connection.room()

    async def flush(self) -> None:
        """Wait until nothing is unconfirmed. Refusals are raised where their receipts are awaited. Raises why the
        client has ended, if it has."""
        await self._connection.confirmed()
        self._connection.check()

    def transaction(self) -> Transaction:
        """Publish, settle and set keys in one commit: `async with client.transaction() as t: ...`."""
        return Transaction(lambda topic, body, **options: self._draft(topic, body, options), self._commit)

    def _draft(self, topic: str, body: Any, options: Mapping[str, Any]) -> Draft:
        if self._trace is not None:
            options = traced(options, self._trace())
        return make_draft(topic, body, options, self._max_body)

    async def _commit(self, unit: dict[str, Any], size: int) -> Receipt:
        await self._connection.room()
        waiter: asyncio.Future[Receipt] = self._loop.create_future()
        self._outbox.add_unit(unit, size, waiter)
        self._connection.write_soon()
        return await waiter

    async def request(self, topic: str, body: Any, timeout: float = 10.0, **options: Any) -> LoggedMessage:
        """Publish, and wait for the reply of whoever works on it. Raises TimeoutError after `timeout` seconds."""
        if self._replies is None:
            self._replies = ReplyBox(self._connection, self.publisher)
        box = self._replies
        async with asyncio.timeout(timeout):
            await box.open()
            reply_to, answer = box.expect()
            headers = {**(options.pop("headers", None) or {}), "reply-to": reply_to, "correlation-id": uuid.uuid4().hex}
            try:
                await self.publish(topic, body, headers=headers, **options)
                return await answer
            finally:
                box.drop(reply_to)

    # Reading

    def consume(self, queue: str, *, prefetch: int | None = None, decode: Any = None) -> Deliveries:
        """The messages of a queue: `async for m in client.consume("mail"): async with m: ...`.

        `prefetch`: how many may be handed over ahead; None: as many as are worked off in a moment. `decode`: how
        `message.data` reads bodies, a callable of bytes or a type."""
        return Deliveries(self._connection, self._consumer(queue, _credit(prefetch, 32), decode))

    def _consumer(self, queue: str, credit: Credit, decode: Any = None) -> Consumer:
        decoder = None if decode is None else decoder_of(decode)
        inbox = Inbox(self._connection.readers.number(), credit)
        return Consumer(self._connection, queue, inbox, self.publish, decoder)

    def stream(
        self,
        name: str | None = None,
        *,
        topics: Iterable[str] | str | None = None,
        from_: str | int | datetime = "latest",
        tap: bool = False,
        prefetch: int | None = None,
        decode: Any = None,
    ) -> Stream:
        """A named stream from its cursor; or `topics` from a place on and then live: `earliest`, `latest`, an offset,
        a position or a time. `tap`: what passes now, skipping what is not read in time."""
        if (name is None) == (topics is None):
            raise ValueError("give either the name of a stream subscription or topics")
        filters = [topics] if isinstance(topics, str) else list(topics or ())
        number = self._connection.readers.number()
        start = from_.isoformat() if isinstance(from_, datetime) else from_
        decoder = None if decode is None else decoder_of(decode)
        live, credit = "tap" if tap else "stream", _credit(prefetch, 1024)
        return Stream(self._connection, number, credit, name or filters, start, live=live, decoder=decoder)

    # Working

    def worker(
        self,
        queue: str,
        *,
        topics: Iterable[str] | str = (),
        concurrency: int = 16,
        prefetch: int | None = None,
        retry: Mapping[str, Any] | None = None,
        decode: Any = None,
        timeout: float | None = None,
        **subscription: Any,
    ) -> Callable[[F], F]:
        """A function, async or plain, works off a queue while `run` runs.

        `topics`: create the queue with these filters if it is not there (`retry` and other settings of
        put_subscription go with it). `concurrency`: how many messages at once. `timeout`: seconds for one message."""
        filters = (topics,) if isinstance(topics, str) else tuple(topics)
        settings = {name: value for name, value in {**subscription, "retry": retry}.items() if value is not None}
        if settings and not filters:
            raise ValueError(f"{', '.join(settings)}: settings of the queue go with topics")
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        options = Options(
            queue=queue,
            topics=filters,
            concurrency=concurrency,
            prefetch=prefetch,
            timeout=timeout,
            subscription=settings,
        )

        def register(function: F) -> F:
            self._workers.append(Worker(function, options, decode))
            return function

        return register

    async def run(self, *, grace: float = 30.0, signals: bool = True) -> None:
        """Run the workers until `stop`, or SIGTERM or SIGINT: then nothing more is begun, what is in hand gets `grace`
        seconds to finish, the rest is released without costing an attempt. A second signal ends the grace."""
        self._crew = Crew(self._workers, self._hire)
        try:
            await self._crew.run(grace, signals=signals)
        finally:
            self._crew = None

    def stop(self) -> None:
        """End `run` in order; called again, at once."""
        if self._crew is not None:
            self._crew.stop()

    async def _hire(self, worker: Worker) -> Consumer:
        options = worker.options
        if options.topics:
            await self.put_subscription(options.queue, options.topics, **options.subscription)
        consumer = self._consumer(options.queue, _credit(options.prefetch, 2 * options.concurrency))
        consumer.decoder = worker.binding.decoder
        self._connection.check()
        await self._connection.readers.attach(consumer)
        return consumer


def _credit(prefetch: int | None, least: int) -> Credit:
    if prefetch is None:
        return Credit(least, MOST_PREFETCH)
    if prefetch < 1:
        raise ValueError("prefetch must be at least 1")
    return Credit(prefetch)
