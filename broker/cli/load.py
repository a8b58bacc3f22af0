"""The load that `postroom bench` puts on a daemon: one publisher and one worker, each a native connection. Floor 7.

A driver, not a client library: frames are packed by the batch, nothing is kept for a retry, and the first refusal ends
the run. It speaks PROTOCOL.md and shares no code with the daemon's own door, so it measures both directions honestly.
"""

import asyncio
import os
import struct
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, perf_counter_ns
from typing import Any, cast

import msgpack

from broker.cli.credential import given_token
from broker.cli.errors import FailedError, UnreachableError

HELLO, PUBLISH, ATTACH, CREDIT, SETTLE, REQUEST, GOODBYE = 1, 2, 3, 4, 5, 9, 12
WELCOME, CONFIRM, REFUSE, DELIVER, ATTACHED, DETACHED, REPLY, ERROR, CLOSING = 32, 33, 34, 35, 36, 37, 38, 39, 41

STAMP = 8
"""Bytes at the head of each body that say when it was sent (perf_counter, ns)."""

MAX_BATCH = 512
"""Messages per PUBLISH frame: large enough that framing costs little, small enough that the window breathes."""

CREDIT_BYTES = 1 << 28


@dataclass(slots=True)
class Result:
    """Seconds from the first publish until all were confirmed, and until all acks were on disk; latencies in seconds,
    from sending a message to its confirm and to its delivery."""

    messages: int
    window: int
    body: int
    confirmed_after: float = 0.0
    settled_after: float = 0.0
    confirm_latency: list[float] = field(default_factory=list)
    deliver_latency: list[float] = field(default_factory=list)


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile of unsorted values; 0.0 for none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))]


class Link(asyncio.Protocol):
    """One greeted connection: frames in and out, and requests that are answered."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.welcome: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.broken: asyncio.Future[None] = loop.create_future()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._buffer = b""
        self._transport: asyncio.Transport
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not asyncio's by inheritance
        hello = {"client": "postroom bench", "publisher": str(uuid.uuid4())}
        token = given_token()
        self.send([HELLO, 1, hello | {"token": token} if token else hello])

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        if not self._closing:
            why = f": {error}" if error else ""
            self.fail(UnreachableError(f"The daemon closed the connection{why}.", "postroom status"))

    def data_received(self, data: bytes) -> None:
        """Cut the bytes into frames and handle each."""
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while end - at >= 4:  # the length's own size
            stop = at + 4 + int.from_bytes(buffer[at : at + 4], "big")
            if stop > end:
                break
            self.frame(msgpack.unpackb(memoryview(buffer)[at + 4 : stop], strict_map_key=False))
            at = stop
        self._buffer = buffer[at:]

    def frame(self, frame: list[Any]) -> None:
        """Handle what every link gets; subclasses take their own first."""
        kind = frame[0]
        if kind == WELCOME:
            self.welcome.set_result(frame[2])
        elif kind == REPLY and (waiter := self._replies.pop(frame[1], None)) and not waiter.done():
            waiter.set_result(frame[2] if len(frame) > 2 else None)  # trailing nil left out
        elif kind == ERROR:
            self._error(frame)
        elif kind == REFUSE:
            self.fail(FailedError(f"The daemon refused a message: {frame[4]}", "postroom status"))
        elif kind == DETACHED and not self._closing and len(frame) > 2 and frame[2]:
            self.fail(FailedError(f"The daemon let go of the worker: {frame[-1]}", "postroom status"))
        elif kind == CLOSING:
            self.fail(FailedError("The daemon is stopping.", "postroom status"))

    def _error(self, frame: list[Any]) -> None:
        error = FailedError(str(frame[3]))
        waiter = self._replies.pop(frame[1], None) if frame[1] is not None else None
        if waiter is None:
            self.fail(error)
        elif not waiter.done():
            waiter.set_exception(error)

    def fail(self, error: FailedError) -> None:
        """End the run with this error."""
        for waiter in self._waiters():
            if not waiter.done():
                waiter.set_exception(error)

    def _waiters(self) -> "list[asyncio.Future[Any]]":
        return [self.welcome, self.broken, *self._replies.values()]

    def send(self, frame: list[Any]) -> None:
        """Write one frame."""
        body = msgpack.packb(frame)
        self._transport.write(struct.pack(">I", len(body)) + body)

    def expect(self, number: int) -> "asyncio.Future[Any]":
        """The REPLY to a numbered request."""
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.broken.done():
            waiter.set_exception(UnreachableError("The connection is gone.", "postroom status"))
        else:
            self._replies[number] = waiter
        return waiter

    async def request(self, number: int, verb: str, **arguments: Any) -> Any:
        """Ask and wait. Raises FailedError with the daemon's words."""
        waiter = self.expect(number)
        self.send([REQUEST, number, verb, arguments])
        return await waiter

    def close(self) -> None:
        """Say goodbye; no error comes of it."""
        self._closing = True
        for waiter in self._waiters():
            if not waiter.cancel() and not waiter.cancelled():
                waiter.exception()  # seen, so that asyncio does not report it as lost
        if not self._transport.is_closing():
            self.send([GOODBYE])
            self._transport.close()


class Publisher(Link):
    """Keeps `window` messages unconfirmed until all are confirmed."""

    def __init__(self, result: Result, topic: str) -> None:
        super().__init__()
        self.done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._result, self._topic = result, topic
        self._filler = os.urandom(result.body - STAMP)
        self._first = self._sent = self._confirmed = self._covered = 0
        self._flying: deque[tuple[int, float]] = deque()

    def begin(self, sequence: int) -> None:
        """Publish, after the sequence that WELCOME named."""
        self._first = self._sent = self._confirmed = self._covered = sequence
        self._pump()

    def _pump(self) -> None:
        goal = min(self._first + self._result.messages, self._confirmed + self._result.window)
        while (count := min(goal - self._sent, MAX_BATCH)) > 0:
            body = perf_counter_ns().to_bytes(STAMP, "big") + self._filler
            self.send([PUBLISH, self._sent + 1, [[self._topic, body]] * count])
            self._sent += count
            self._flying.append((self._sent, perf_counter()))

    def frame(self, frame: list[Any]) -> None:
        """Confirms move the window."""
        if frame[0] != CONFIRM:
            return super().frame(frame)
        now, self._confirmed, flying = perf_counter(), frame[1], self._flying
        while flying and flying[0][0] <= self._confirmed:
            last, sent_at = flying.popleft()
            self._result.confirm_latency.extend([now - sent_at] * (last - self._covered))
            self._covered = last
        if self._confirmed < self._first + self._result.messages:
            return self._pump()
        if not self.done.done():
            self.done.set_result(now)
        return None


class Worker(Link):
    """Takes and acknowledges by the batch; the last ack asks to be told when it is on disk."""

    LAST = 1

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.attached = asyncio.get_running_loop().create_future()
        self.received = 0
        self._result = result

    def begin(self, subscription: str) -> None:
        """Attach with credit enough for the window, and some to spare."""
        credit = max(2 * self._result.window, 1_000)
        self.send([ATTACH, 1, subscription, {"credit": credit, "bytes": CREDIT_BYTES}])

    def frame(self, frame: list[Any]) -> None:
        """Deliveries are acknowledged at once, and their credit given back."""
        if frame[0] == DELIVER:
            self._delivered(frame[3])
        elif frame[0] == ATTACHED:
            self.attached.set_result(None)
        else:
            super().frame(frame)

    def _delivered(self, rows: list[list[Any]]) -> None:
        now, latencies = perf_counter_ns(), self._result.deliver_latency
        latencies.extend([(now - int.from_bytes(row[4][:STAMP], "big")) / 1e9 for row in rows])
        self.received += len(rows)
        settle: list[Any] = [SETTLE, 1, "ack", [row[0] for row in rows]]
        if self.received >= self._result.messages:
            settle += [None, self.LAST]
        self.send(settle)
        self.send([CREDIT, 1, len(rows), sum(len(row[4]) for row in rows)])


async def run(
    host: str, port: int, result: Result, watch: Callable[[int], None] = lambda _: None, timeout: float = 300.0
) -> None:
    """Fill `result`. `watch` is told the messages received so far, a few times a second. Raises FailedError."""
    name = f"bench-{uuid.uuid4().hex[:12]}"
    topic = f"bench/{name}"
    publisher, worker = await _connect(host, port, lambda: Publisher(result, topic), lambda: Worker(result))
    try:
        async with asyncio.timeout(timeout):
            sequence = (await publisher.welcome)["sequence"]
            await worker.welcome
            await publisher.request(1, "subscription.put", name=name, kind="queue", topics=[topic])
            try:
                await _measure(publisher, worker, name, sequence, result, watch)
            finally:
                await publisher.request(2, "subscription.delete", name=name)
    except TimeoutError:
        raise FailedError(
            f"Not done after {timeout:g} s: {worker.received:,} of {result.messages:,} arrived."
        ) from None
    finally:
        publisher.close()
        worker.close()


async def _connect(
    host: str, port: int, publisher: Callable[[], Publisher], worker: Callable[[], Worker]
) -> tuple[Publisher, Worker]:
    loop = asyncio.get_running_loop()
    try:
        _, first = await loop.create_connection(publisher, host, port)
        _, second = await loop.create_connection(worker, host, port)
    except OSError as error:
        text = f"No native listener answers at {host}:{port} ({error.strerror or error})."
        hint = "postroom serve, or name the address that it printed: postroom bench --native HOST:PORT"
        raise UnreachableError(text, hint) from None
    return first, second


async def _measure(
    publisher: Publisher, worker: Worker, name: str, sequence: int, result: Result, watch: Callable[[int], None]
) -> None:
    worker.begin(name)
    await _first_of(worker.attached, worker)
    settled = worker.expect(Worker.LAST)
    start = perf_counter()
    publisher.begin(sequence)
    waiting = {publisher.done, settled}
    while waiting:
        await asyncio.wait(
            {*waiting, publisher.broken, worker.broken}, timeout=0.25, return_when=asyncio.FIRST_COMPLETED
        )
        _raise_if_broken(publisher, worker)
        watch(worker.received)
        if settled.done() and not result.settled_after:
            result.settled_after = perf_counter() - start
        waiting = {one for one in waiting if not one.done()}
    result.confirmed_after = publisher.done.result() - start


async def _first_of(future: "asyncio.Future[Any]", link: Link) -> None:
    await asyncio.wait({future, link.broken}, return_when=asyncio.FIRST_COMPLETED)
    _raise_if_broken(link)


def _raise_if_broken(*links: Link) -> None:
    for link in links:
        if link.broken.done():
            link.broken.result()
