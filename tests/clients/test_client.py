"""Every verb of the client against a real broker."""

import asyncio
import logging
from typing import Any

import pytest
from postroom_client import (
    ClientClosed,
    ConnectionLost,
    LeaseLost,
    Message,
    PartlyRefused,
    PostroomError,
    Receipt,
    WindowFull,
    connect,
)
from postroom_client.identity import made_id

from tests.clients.world import Broker, Line, client, until


async def test_a_receipt_says_where_the_message_is(broker: Broker) -> None:
    async with client(broker.url) as b:
        receipt = await b.publish("orders/created", {"id": 7}, key="k", headers={"h": "v"}, priority=3)
        assert receipt.offset is not None
        assert receipt.at is not None
        assert receipt.id == made_id(b.epoch, receipt.offset, receipt.at)
        page = await b.read("orders/#")
        (message,) = page.messages
        assert (message.id, message.position, page.position) == (receipt.id, receipt.position, receipt.position)
        assert (message.topic, message.data, message.body) == ("orders/created", {"id": 7}, b'{"id":7}')
        assert (message.key, message.headers, message.priority) == ("k", {"h": "v"}, 3)
        assert (message.content_type, message.published_at) == ("application/json", receipt.at)
        assert page.recovered


async def test_the_same_id_is_stored_once(broker: Broker) -> None:
    async with client(broker.url) as b:
        first, again = await b.publish("t", b"1", id="mine"), await b.publish("t", b"2", id="mine")
        assert (first.id, first.duplicate) == ("mine", False)
        assert (again.offset, again.id, again.duplicate) == (first.offset, "mine", True)


async def test_a_delayed_message_waits_and_can_be_cancelled(broker: Broker) -> None:
    async with client(broker.url) as b:
        receipt = await b.publish("t", b"", delay=3600, id="later")
        assert (receipt.offset, receipt.position, receipt.id) == (None, None, "later")
        (waiting,) = await b.scheduled()
        assert waiting["topic"] == "t"
        assert await b.cancel(waiting["id"])
        assert not await b.cancel(waiting["id"])


async def test_publishes_of_one_turn_share_a_frame_and_keep_their_order(broker: Broker) -> None:
    async with client(broker.url) as b:
        receipts = await asyncio.gather(*(b.publish("t", b"%d" % i) for i in range(500)))
        offsets = [r.offset for r in receipts]
        assert offsets == list(range(offsets[0], offsets[0] + 500))  # type: ignore[operator, arg-type]
        status = await b.status()
        assert status["commits"] <= 3


async def test_more_than_the_window_goes_through(broker: Broker) -> None:
    async with client(broker.url, window=10) as b:
        receipts = await asyncio.gather(*(b.publish("t", b"") for _ in range(95)))
        many = await b.publish_many([("t", b"")] * 95)
        assert len({r.offset for r in receipts + many}) == 190
        futures = [await b.publish_soon("t", b"") for _ in range(50)]
        assert b.unconfirmed <= 10
        await b.flush()
        assert all(f.done() for f in futures)


async def test_nowait_says_when_the_window_is_full(broker: Broker) -> None:
    async with client(broker.url, window=2) as b:
        futures = [b.publish_nowait("t", b""), b.publish_nowait("t", b"")]
        with pytest.raises(WindowFull):
            b.publish_nowait("t", b"")
        await b.room()
        futures.append(b.publish_nowait("t", b""))
        assert len({(await f).offset for f in futures}) == 3


async def test_a_refusal_reaches_its_publisher_alone(broker: Broker) -> None:
    async with client(broker.url) as b:
        good, bad = await asyncio.gather(b.publish("t", b""), b.publish("a/+", b""), return_exceptions=True)
        assert isinstance(good, Receipt)
        assert isinstance(bad, PostroomError)
        assert bad.code == "bad_topic"
        with pytest.raises(PartlyRefused) as caught:
            await b.publish_many([("t", b""), ("$sys/x", b""), ("t", b"", {"priority": 1})])
        results = caught.value.results
        assert [getattr(r, "code", "stored") for r in results] == ["stored", "forbidden", "stored"]
        with pytest.raises(PostroomError, match="message_too_large"):
            await b.publish("t", b"x" * (2 << 20))


async def test_atomic_means_all_or_nothing(broker: Broker) -> None:
    async with client(broker.url) as b:
        with pytest.raises(PostroomError, match="bad_topic"):
            await b.publish_many([("t", b"1"), ("#", b"2")], atomic=True)
        assert await b.publish_many([]) == []
        receipts = await b.publish_many([("t", b"1"), ("t", b"2")], atomic=True)
        assert [m.body for m in (await b.read("t")).messages] == [b"1", b"2"]
        assert receipts[1].offset == receipts[0].offset + 1  # type: ignore[operator]


async def test_consume_and_settle_in_every_way(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", ["q/#"], retry={"initial": "1ms", "jitter": 0})
        await b.publish_many([("q/a", name) for name in ("ack", "retry", "reject", "release")])
        seen: list[tuple[str, int]] = []
        async with b.consume("q", prefetch=1) as messages:
            async for m in messages:
                seen.append((m.data, m.attempt))
                if m.data == "ack" or len([s for s in seen if s[0] == m.data]) == 2:
                    m.ack()
                else:
                    getattr(m, m.data)(*([0.001] if m.data == "retry" else []))
                if len(seen) == 6:
                    break
        assert sorted(seen) == [("ack", 1), ("reject", 1), ("release", 1), ("release", 1), ("retry", 1), ("retry", 2)]
        counts = await b.subscription("q")
        assert (counts["lag"], counts["dead"]) == (0, 1)
        async with b.stream(topics="$dead/q", from_="earliest") as stream:
            assert (await anext(stream)).data == "reject"


async def test_a_block_acks_retries_or_releases(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q", retry={"initial": "1ms", "max_attempts": 2})
        await b.publish("q", b"1")
        async with b.consume("q") as messages:
            m = await anext(messages)
            with pytest.raises(asyncio.CancelledError):
                async with m:
                    raise asyncio.CancelledError
            m = await anext(messages)
            assert m.attempt == 1  # being stopped costs nothing
            with pytest.raises(KeyError):
                async with m:
                    raise KeyError("lost")
            m = await anext(messages)
            assert m.attempt == 2
            async with m:
                pass
            assert not m.in_hand
            with pytest.raises(LeaseLost):
                m.ack()
        assert (await b.subscription("q"))["acked"] == 1


async def test_the_errors_text_enters_the_history(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q", retry={"max_attempts": 1})
        await b.publish("q", b"1", headers={"h": "v"})
        with pytest.raises(ValueError, match="no good"):  # noqa: PT012
            async for m in b.consume("q"):
                async with m:
                    raise ValueError("no good")
        async with b.stream(topics="$dead/#", from_="earliest") as stream:
            dead = await anext(stream)
        assert "ValueError: no good" in str(dead.history)
        assert dead.headers == {"h": "v"}
        assert await b.redrive("q") == 1
        async for again in b.consume("q"):
            async with again:
                assert (again.topic, again.body) == ("q", b"1")
            break


async def test_settling_can_wait_for_the_commit(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q")
        await b.publish("q", b"")
        async with b.consume("q") as messages:
            m = await anext(messages)
            await m.settle("ack")
            assert (await b.subscription("q"))["lag"] == 0
            with pytest.raises(ValueError, match="there are ack, retry"):
                await m.settle("drop")


async def test_leaving_the_loop_gives_back_what_was_not_taken(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q")
        await b.publish_many([("q", b"%d" % i) for i in range(20)])
        async for m in b.consume("q"):
            async with m:
                pass
            break
        info = await b.subscription("q")
        while info["leased"] or info["consumers"]:
            info = await b.subscription("q")
        assert (info["ready"], info["acked"], info["retried"]) == (19, 1, 0)


async def test_closing_in_order_is_no_death_of_a_worker(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q")
        await b.publish("q", b"1")
        messages = await b.consume("q").open()
        assert (await anext(messages)).in_hand  # begun, and not settled
    async with client(broker.url) as b, b.consume("q") as messages:
        again = await anext(messages)
        assert (again.attempts, again.deliveries) == (0, 0)


async def test_a_lost_connection_counts_what_was_begun(broker: Broker, line: Line) -> None:
    async with client(line.url) as b, client(broker.url) as other:
        await b.put_subscription("q", "q")
        await b.publish("q", b"1")
        async with b.consume("q") as messages:
            await anext(messages)
            await b.status()  # the report has arrived
            line.down = True
            line.cut()
            async with other.consume("q") as others:
                again = await anext(others)
                assert (again.attempts, again.deliveries) == (0, 1)
                await again.settle("ack")
            line.down = False


async def test_leases_are_prolonged_while_in_hand(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q", lease="150ms")
        await b.publish_many([("q", b"1"), ("q", b"2")])
        async with b.consume("q") as messages:
            first = await anext(messages)
            loop, seen = asyncio.get_running_loop(), broker.engine.stats
            deadline = loop.time() + 0.6
            await until(lambda: loop.time() > deadline and seen())
            first.ack()
            second = await anext(messages)
            assert second.attempt == 1
            second.extend(60)
            await second.settle("ack")
        info = await b.subscription("q")
        assert (info["acked"], info["retried"]) == (2, 0)


async def test_attaching_to_nothing_says_so(broker: Broker) -> None:
    async with client(broker.url) as b:
        with pytest.raises(PostroomError, match="unknown_subscription"):
            await anext(b.consume("nowhere"))
        with pytest.raises(PostroomError, match="unknown_subscription"):
            await b.subscription("nowhere")
        with pytest.raises(ValueError, match="either"):
            b.stream()
        with pytest.raises(ValueError, match="prefetch"):
            b.consume("q", prefetch=0)


async def test_a_deleted_subscription_ends_its_consumers(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q")
        async with b.consume("q") as messages:
            await b.delete_subscription("q")
            with pytest.raises(PostroomError):
                await anext(messages)


async def test_streams_replay_and_go_on_live(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.publish_many([("s/a", b"1"), ("other", b"x"), ("s/b", b"2")])
        async with b.stream(topics=["s/#"], from_="earliest") as stream:
            assert [(await anext(stream)).body for _ in range(2)] == [b"1", b"2"]
            receipt = await b.publish("s/a", b"3")
            live = await anext(stream)
            assert (live.body, live.position, stream.position) == (b"3", receipt.position, receipt.position)
            assert live.recovered
            assert stream.recovered
        async with b.stream(topics="s/#", from_=receipt.position or "") as stream:
            await b.publish("s/a", b"4")
            assert (await anext(stream)).body == b"4"
        async for m in b.stream(topics="s/#", from_=receipt.offset or 0):
            assert m.body == b"3"
            break


async def test_a_position_of_another_log_is_answered_honestly(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.publish("s", b"1")
        async with b.stream(topics="s", from_="00000000.7") as stream:
            m = await anext(stream)
            assert not m.recovered
            assert not stream.recovered
            await b.publish("s", b"2")
            assert (await anext(stream)).recovered


async def test_a_named_stream_keeps_its_cursor(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("s", "s/#", kind="stream", from_="earliest")
        await b.publish_many([("s/a", b"%d" % i) for i in range(10)])
        async with b.stream("s", prefetch=3) as stream:
            for _ in range(4):
                m = await anext(stream)
            await stream.commit()
            await anext(stream)
        async with b.stream("s") as stream:
            assert (await anext(stream)).body == b"4"
            await stream.commit(m)
        with pytest.raises(ValueError, match="only a named stream"):
            await b.stream(topics="s/#").commit()


async def test_what_is_in_no_log_has_no_place(broker: Broker) -> None:
    """Neither for its publisher nor for a tap; and no message of it is taken for one that was seen before."""
    async with connect(broker.url) as a, a.stream(topics=["t/#", "$reply/x"], tap=True) as tap:
        receipts = [await a.publish(topic, body) for topic, body in (("t/1", "1"), ("$reply/x", "2"))]
        receipts += await a.publish_many([("$reply/x", "3"), ("t/1", "4")])
        receipts.append(await a.publish("$reply/x", "5", id="mine"))
        seen = [await anext(tap) for _ in receipts]
        assert tap.position == receipts[3].position
    assert [receipt.offset is None for receipt in receipts] == [False, True, True, False, True]
    assert [receipt.id is None for receipt in receipts] == [False, True, True, False, False]
    places = {message.body: (message.id, message.position) for message in seen}
    assert [places[b"%d" % (i + 1)] for i in range(5)] == [(r.id, r.position) for r in receipts]


async def test_a_tap_sees_what_passes(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.publish("t/a", b"before")
        async with b.stream(topics="t/#", tap=True) as tap:
            await b.publish("t/a", b"now")
            assert (await anext(tap)).body == b"now"


async def test_a_transaction_does_all_or_nothing(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q")
        await b.publish_many([("q", b"1"), ("q", b"2"), ("q", b"3")])
        async with b.consume("q") as messages:
            first, second, third = [await anext(messages) for _ in range(3)]
            async with b.transaction() as t:
                t.publish("out", first.body)
                t.ack(first)
                t.reject(third)
                t.set("done", b"1", expect=0)
            assert t.receipt is not None
            assert t.receipt.offset is not None
            assert not first.in_hand
            with pytest.raises(PostroomError, match="condition_failed"):  # noqa: PT012
                async with b.transaction() as t:
                    t.publish("out", second.body)
                    t.ack(second)
                    t.set("done", b"2", expect=0)
            assert second.in_hand
            with pytest.raises(RuntimeError):  # noqa: PT012
                async with b.transaction() as t:
                    t.publish("out", b"never")
                    raise RuntimeError
            with pytest.raises(LeaseLost):  # noqa: PT012
                async with b.transaction() as t:
                    t.publish("out", b"never")
                    t.ack(first)
            async with b.transaction() as t:
                t.retry(second, delay=3600)
        assert [m.body for m in (await b.read("out")).messages] == [b"1"]
        assert await b.get("done") == (b"1", 1)
        assert await b.keys("do") == ["done"]
        assert await b.get("nothing") is None
        info = await b.subscription("q")
        assert (info["acked"], info["delayed"], info["dead"]) == (1, 1, 1)


async def test_requests_are_answered_or_time_out(broker: Broker) -> None:
    async with client(broker.url) as b, client(broker.url) as server:

        @server.worker("double", topics="double")
        async def double(value: int) -> int:
            return value * 2

        @server.worker("late", topics="late")
        async def late(m: Message) -> None:
            await m.reply(b"by hand", content_type="text/plain")

        running = asyncio.create_task(server.run(signals=False))
        await until(lambda: len(broker.engine.subscriptions()) == 2)
        answers = await asyncio.gather(*(b.request("double", i) for i in range(20)))
        assert [a.data for a in answers] == [i * 2 for i in range(20)]
        answer = await b.request("late", b"", headers={"mine": "x"})
        assert answer.data == "by hand"
        assert "correlation-id" in answer.headers
        with pytest.raises(TimeoutError):
            await b.request("nobody", b"", timeout=0.05)
        server.stop()
        await running
        assert (await b.subscription("double"))["acked"] == 20


async def test_a_reply_needs_someone_who_asked(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q")
        await b.publish("q", b"")
        async for m in b.consume("q"):
            with pytest.raises(ValueError, match="no header reply-to"):
                await m.reply(b"")
            break


async def test_management(broker: Broker) -> None:
    async with client(broker.url) as b:
        assert await b.put_subscription("q", ["q/#"], lease=5, ordered=True)
        assert not await b.put_subscription("q", ["q/#"], lease="5s", ordered=True)
        (info,) = await b.subscriptions()
        assert (info["name"], info["topics"], info["lease"], info["ordered"]) == ("q", ["q/#"], "5s", True)
        await b.publish_many([("q/a", b"1"), ("q/b", b"2")])
        assert [m.body for m in await b.peek("q")] == [b"1", b"2"]
        await b.pause("q")
        assert (await b.subscription("q"))["paused"]
        await b.resume("q")
        assert await b.purge("q") == 2
        assert {t["name"]: t["messages"] for t in await b.topics()} == {"q/a": 1, "q/b": 1}
        assert (await b.read("q/#", limit=1)).messages[0].body == b"1"
        await b.delete_subscription("q")
        assert await b.subscriptions() == []
        with pytest.raises(PostroomError, match="bad_option"):
            await b.put_subscription("q", ["q/#"], colour="red")


async def test_nobody_there_says_where_it_looked(unused_tcp_port: int) -> None:
    with pytest.raises(ConnectionLost, match=f"no broker at postroom://127.0.0.1:{unused_tcp_port} within 0.05 s"):
        await client(f"postroom://127.0.0.1:{unused_tcp_port}", timeout=0.05).open()


async def test_after_closing_nothing_goes(broker: Broker) -> None:
    b = client(broker.url)
    async with b:
        await b.put_subscription("q", "q")
        waiting = asyncio.ensure_future(anext(b.consume("q")))
        await until(lambda: broker.engine.subscription("q").consumers)
    with pytest.raises(ClientClosed):
        await waiting
    for verb in (b.publish("t", b""), b.publish_many([("t", b"")]), b.status(), b.flush()):
        with pytest.raises(ClientClosed):
            await verb


async def test_a_unix_socket(broker: Broker, tmp_path: Any) -> None:
    import socket

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    broker.server._listeners.append(  # the daemon's listeners do this
        await asyncio.get_running_loop().create_unix_server(lambda: _connection(broker), sock=sock)
    )
    async with connect(f"postroom+unix://{tmp_path}/s") as b:
        assert (await b.publish("t", b"")).offset is not None


def _connection(broker: Broker) -> Any:
    from broker.protocols.native.server import Connection

    return Connection(broker.server)


async def test_a_second_client_of_the_same_publisher_takes_over(broker: Broker, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    async with client(broker.url, publisher="me") as first:
        await first.publish("t", b"1")
        async with client(broker.url, publisher="me") as second:
            assert (await second.publish("t", b"2")).offset is not None
            await until(lambda: not first.connected)
            with pytest.raises(PostroomError, match="conflict"):
                await first.publish("t", b"3")


async def test_a_trace_goes_into_the_headers_of_each_message(broker: Broker) -> None:
    traces = iter(range(10))
    async with client(broker.url, trace=lambda: {"traceparent": str(next(traces))}) as b:
        await b.publish("t", b"", headers={"h": "v"})
        await b.publish_many([("t", b""), ("t", b"", {"headers": {"traceparent": "own"}})])
        async with b.transaction() as t:
            t.publish("t", b"")
        await (await b.publish_soon("t", b""))
        found = [message.headers for message in (await b.read("t")).messages]
    assert found == [
        {"traceparent": "0", "h": "v"},
        {"traceparent": "1"},
        {"traceparent": "own"},
        {"traceparent": "3"},
        {"traceparent": "4"},
    ]
    async with client(broker.url, trace=lambda: None) as b:
        await b.publish("plain", b"")
        assert (await b.read("plain")).messages[0].headers == {}
