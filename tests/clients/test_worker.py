"""Workers against a real broker: how they end messages, how many at once, and how they stop."""

import asyncio
import dataclasses
import logging
import os
import signal
import threading
import time

import pytest
from postroom_client import Client, DecodeFailed, LoggedMessage, Message, PostroomError, Reject, Retry, ThreadMessage

from tests.clients.world import Broker, client, until


@dataclasses.dataclass
class Order:
    number: int


async def dead_letter(b: Client) -> LoggedMessage:
    """The one dead letter, once it is on disk."""
    async with asyncio.timeout(10), b.stream(topics="$dead/q", from_="earliest") as stream:
        return await anext(stream)


async def test_what_a_function_does_decides(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "postroom_client")
    seen: list[tuple[str, int]] = []
    async with client(broker.url) as b:

        @b.worker("q", topics="q/#", retry={"initial": "1ms", "jitter": 0, "max_attempts": 5})
        async def work(what: str, m: Message) -> None:
            seen.append((what, m.attempt))
            if m.attempt == 1 and what == "fails":
                raise ValueError("once")
            if m.attempt == 1 and what == "later":
                raise Retry("not yet", delay=0.001)
            if what == "never":
                raise Reject("no such order")
            if what == "byhand":
                m.ack()

        running = asyncio.create_task(b.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        await b.publish_many([("q/a", what) for what in ("good", "fails", "later", "never", "byhand")])
        await until(lambda: broker.engine.subscription("q").acked == 4)
        await until(lambda: broker.engine.subscription("q").dead == 1)
        b.stop()
        await running
        dead = await dead_letter(b)
    assert sorted(seen) == [
        ("byhand", 1),
        ("fails", 1),
        ("fails", 2),
        ("good", 1),
        ("later", 1),
        ("later", 2),
        ("never", 1),
    ]
    assert "no such order" in str(dead.history)
    assert "attempt 1): once" in caplog.text


async def test_a_body_that_cannot_be_read_is_rejected_at_once(broker: Broker) -> None:
    orders: list[Order] = []
    async with client(broker.url) as b:

        @b.worker("q", topics="q")
        async def work(order: Order) -> None:
            orders.append(order)

        running = asyncio.create_task(b.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        await b.publish_many([("q", {"number": 7}), ("q", b"{")])
        await until(lambda: broker.engine.subscription("q").dead == 1 and orders)
        b.stop()
        await running
        dead = await dead_letter(b)
        assert "DecodeFailed: the body is not Order" in str(dead.history)
        async with b.stream(topics=["q"], from_="earliest", decode=Order) as stream:
            assert (await anext(stream)).data == Order(7)
            with pytest.raises(DecodeFailed):
                _ = (await anext(stream)).data
    assert orders == [Order(7)]


async def test_as_many_at_once_as_asked_for(broker: Broker) -> None:
    at_once, most, go = 0, 0, asyncio.Event()
    async with client(broker.url) as b:

        @b.worker("q", topics="q", concurrency=5)
        async def work() -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await go.wait()
            at_once -= 1

        running = asyncio.create_task(b.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        await b.publish_many([("q", b"")] * 20)
        await until(lambda: at_once == 5)
        go.set()
        await until(lambda: broker.engine.subscription("q").acked == 20)
        b.stop()
        await running
    assert most == 5


async def test_plain_functions_run_in_threads(broker: Broker) -> None:
    threads: set[str] = set()
    together = threading.Barrier(3)
    async with client(broker.url) as b:

        @b.worker("q", topics="q", concurrency=3)
        def work(number: int, m: ThreadMessage) -> str:
            threads.add(threading.current_thread().name)
            together.wait(10)
            m.extend(60)
            if number == 0:
                m.ack()
            return f"done {number} of {m.topic}"

        running = asyncio.create_task(b.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        answers = await asyncio.gather(*(b.request("q", i) for i in range(3)))
        assert [a.data for a in answers] == [f"done {i} of q" for i in range(3)]
        await until(lambda: broker.engine.subscription("q").acked == 3)
        b.stop()
        await running
    assert len(threads) == 3


async def test_a_time_limit_is_a_failure(broker: Broker) -> None:
    async with client(broker.url) as b:

        @b.worker("q", topics="q", timeout=0.01, retry={"max_attempts": 1})
        async def work() -> None:
            await asyncio.Event().wait()

        running = asyncio.create_task(b.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        await b.publish("q", b"")
        await until(lambda: broker.engine.subscription("q").dead == 1)
        b.stop()
        await running


async def test_stopping_finishes_what_is_in_hand_and_releases_the_rest(broker: Broker) -> None:
    begun, finished, go = [], [], asyncio.Event()
    async with client(broker.url) as b:

        @b.worker("q", topics="q", concurrency=2, prefetch=10)
        async def work(m: Message) -> None:
            begun.append(m.body)
            await go.wait()
            finished.append(m.body)

        running = asyncio.create_task(b.run())
        await until(lambda: broker.engine.subscriptions())
        await b.publish_many([("q", b"%d" % i) for i in range(10)])
        await until(lambda: len(begun) == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: broker.engine.subscription("q").leased == 2)
        assert not running.done()
        go.set()
        await running
        info = await b.subscription("q")
        assert finished == begun == [b"0", b"1"]
        assert (info["acked"], info["ready"], info["retried"], info["consumers"]) == (2, 8, 0, 0)
        async with b.consume("q") as messages:
            m = await anext(messages)
            assert (m.body, m.attempts, m.deliveries) == (b"2", 0, 0)
            m.release()


async def test_what_does_not_finish_in_time_is_released(broker: Broker) -> None:
    begun: list[bytes] = []
    async with client(broker.url) as b:

        @b.worker("q", topics="q")
        async def work(m: Message) -> None:
            begun.append(m.body)
            await asyncio.Event().wait()

        running = asyncio.create_task(b.run(signals=False, grace=0.01))
        await until(lambda: broker.engine.subscriptions())
        await b.publish("q", b"1")
        await until(lambda: begun)
        b.stop()
        await running
        info = await b.subscription("q")
        assert (info["ready"], info["leased"], info["retried"]) == (1, 0, 0)


async def test_a_second_signal_does_not_wait(broker: Broker) -> None:
    begun: list[bytes] = []
    async with client(broker.url) as b:

        @b.worker("q", topics="q")
        async def work(m: Message) -> None:
            begun.append(m.body)
            await asyncio.Event().wait()

        before, running = time.monotonic(), asyncio.create_task(b.run(grace=60))
        await until(lambda: broker.engine.subscriptions())
        await b.publish("q", b"1")
        await until(lambda: begun)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        await running
        assert time.monotonic() - before < 30
        assert (await b.subscription("q"))["ready"] == 1


async def test_being_cancelled_releases_too(broker: Broker) -> None:
    begun: list[bytes] = []
    async with client(broker.url) as b:

        @b.worker("q", topics="q")
        async def work(m: Message) -> None:
            begun.append(m.body)
            await asyncio.Event().wait()

        running = asyncio.create_task(b.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        await b.publish("q", b"1")
        await until(lambda: begun)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await b.subscription("q"))["ready"] == 1


async def test_a_worker_that_cannot_go_on_ends_the_run(broker: Broker) -> None:
    async with client(broker.url) as b:

        @b.worker("nowhere")
        async def work() -> None: ...

        @b.worker("q", topics="q")
        async def other() -> None: ...

        with pytest.raises(PostroomError, match="unknown_subscription"):
            await b.run(signals=False)
        assert (await b.subscription("q"))["consumers"] == 0


async def test_settings_without_topics_make_no_sense(broker: Broker) -> None:
    b = client(broker.url)
    with pytest.raises(ValueError, match="retry: settings of the queue go with topics"):
        b.worker("q", retry={"max_attempts": 1})
    with pytest.raises(ValueError, match="at least 1"):
        b.worker("q", concurrency=0)


async def test_no_workers_run_until_stopped(broker: Broker) -> None:
    async with client(broker.url) as b:
        running = asyncio.create_task(b.run(signals=False))
        await asyncio.sleep(0)
        b.stop()
        await running
