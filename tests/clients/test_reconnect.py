"""Connections that break at every bad moment, against a real broker: nothing is lost, nothing is stored twice, and
reading goes on."""

import asyncio
import random

import pytest
from postroom_client import ClientClosed, ConnectionLost, LoggedMessage, Message, PostroomError

from tests.clients.world import Broker, Line, client, until


async def test_what_was_committed_unheard_is_not_stored_again(broker: Broker, line: Line) -> None:
    async with client(line.url) as b:
        line.deaf = True
        waiting = [asyncio.ensure_future(b.publish("t", b"%d" % i)) for i in range(10)]
        await until(lambda: broker.engine.stats().committed_messages == 10)
        line.cut()
        line.deaf = False
        receipts = await asyncio.gather(*waiting)
        assert [r.offset for r in receipts] == [None] * 10  # on disk; where was said to nobody
        assert (await b.publish("t", b"10")).offset is not None
        assert [m.body for m in (await b.read("t")).messages] == [b"%d" % i for i in range(11)]


async def test_what_never_arrived_is_sent_again(broker: Broker, line: Line) -> None:
    async with client(line.url) as b:
        line.down = True
        line.cut()
        await until(lambda: not b.connected)
        waiting = [asyncio.ensure_future(b.publish("t", b"%d" % i)) for i in range(10)]
        group = asyncio.ensure_future(b.publish_many([("t", b"g"), ("t", b"h")], atomic=True))
        await asyncio.sleep(0)
        line.down = False
        offsets = [(await w).offset for w in waiting]
        assert offsets == [(await b.read("t")).messages[i].offset for i in range(10)]
        assert len(await group) == 2


@pytest.mark.parametrize("seed", range(4))
async def test_exactly_once_through_random_cuts(broker: Broker, line: Line, seed: int) -> None:
    chance, total, done = random.Random(seed), 3000, asyncio.Event()

    async def cutter() -> None:
        while not done.is_set():
            line.deaf = chance.random() < 0.5
            await asyncio.sleep(chance.random() * 0.01)
            line.cut()
            line.deaf = False
            await asyncio.sleep(chance.random() * 0.02)

    async with client(line.url, window=200) as b:
        cutting = asyncio.create_task(cutter())
        futures = []
        for i in range(total):
            options = {"headers": {"n": str(i)}} if chance.random() < 0.1 else {}
            futures.append(await b.publish_soon("t", b"%d" % i, **options))
            if chance.random() < 0.02:
                await asyncio.sleep(0.002)
        await b.flush()
        done.set()
        await cutting
        await until(lambda: b.connected)
        receipts = [f.result() for f in futures]
        stored: list[LoggedMessage] = []
        position: str | int = "earliest"
        while len(stored) < total:
            page = await b.read("t", position)
            assert page.messages
            stored += page.messages
            position = page.position
    assert line.connections > 3
    assert [m.body for m in stored] == [b"%d" % i for i in range(total)]
    places = {m.body: m.offset for m in stored}
    assert all(r.offset in (None, places[b"%d" % i]) for i, r in enumerate(receipts))


async def test_transactions_are_not_done_twice(broker: Broker, line: Line) -> None:
    async with client(line.url) as b:
        await b.put_subscription("q", "q")
        await b.publish_many([("q", b"%d" % i) for i in range(20)])
        taken = 0
        async for m in b.consume("q", prefetch=4):
            async with m, b.transaction() as t:
                line.deaf = taken % 3 == 0
                if line.deaf:
                    asyncio.get_running_loop().call_later(0.01, line.cut)
                    asyncio.get_running_loop().call_later(0.01, setattr, line, "deaf", False)
                t.publish("out", m.body)
                t.ack(m)
            taken += 1
            if (await b.subscription("q"))["lag"] == 0:
                break
        out = [m.body for m in (await b.read("out")).messages]
        assert sorted(out, key=int) == [b"%d" % i for i in range(20)]
        assert line.connections > 3


async def test_consuming_goes_on(broker: Broker, line: Line) -> None:
    async with client(line.url) as b, client(broker.url) as publisher:
        await b.put_subscription("q", "q")
        async with b.consume("q", prefetch=10) as messages:
            for round_ in range(5):
                await publisher.publish_many([("q", b"%d/%d" % (round_, i)) for i in range(30)])
                for _ in range(30):
                    m = await anext(messages)
                    m.ack()
                line.cut()
            await until(lambda: broker.engine.subscription("q").lag == 0)


async def test_work_in_hand_is_not_begun_twice(broker: Broker, line: Line) -> None:
    begun: list[bytes] = []
    go = asyncio.Event()
    async with client(line.url) as b, client(broker.url) as other:

        @b.worker("q", topics="q", concurrency=2, prefetch=8)
        async def slow(m: Message) -> None:
            begun.append(m.body)
            await go.wait()

        running = asyncio.create_task(b.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        await other.publish_many([("q", b"%d" % i) for i in range(8)])
        await until(lambda: len(begun) == 2)
        for _ in range(3):
            connections = line.connections
            line.cut()
            await until(lambda n=connections: line.connections > n and b.connected)
            await until(lambda: broker.engine.subscription("q").leased == 8)
        assert len(begun) == 2
        go.set()
        await until(lambda: broker.engine.subscription("q").acked == 8)
        b.stop()
        await running
        assert sorted(begun) == [b"%d" % i for i in range(8)]


async def test_work_that_ends_while_away_counts(broker: Broker, line: Line) -> None:
    begun: list[bytes] = []
    async with client(line.url) as b:
        await b.put_subscription("q", "q")
        await b.publish("q", b"1")
        async with b.consume("q") as messages:
            m = await anext(messages)
            line.down = True
            line.cut()
            await until(lambda: broker.engine.subscription("q").consumers == 0)
            m.ack()
            line.down = False
            await until(lambda: broker.engine.subscription("q").acked == 1)
            await b.publish("q", b"2")
            begun.append((await anext(messages)).body)
        assert begun == [b"2"]


async def test_acks_that_were_lost_are_given_again(broker: Broker, line: Line) -> None:
    async with client(line.url) as b:
        await b.put_subscription("q", "q")
        await b.publish_many([("q", b"1"), ("q", b"2")])
        async with b.consume("q") as messages:
            first, second = await anext(messages), await anext(messages)
            line.target, target = 1, line.target  # the relay keeps its connection; a new one would fail
            sent = len(line.sent)
            line.cut()
            first.ack()  # into a connection that is gone already
            second.ack()
            line.target = target
            await until(lambda: broker.engine.subscription("q").acked == 2)
            assert len(line.sent) > sent


async def test_streams_go_on_behind_the_last_message_taken(broker: Broker, line: Line) -> None:
    async with client(line.url) as b, client(broker.url) as publisher:
        await b.put_subscription("named", "s", kind="stream", from_="earliest")
        async with b.stream(topics="s", from_="earliest", prefetch=7) as anonymous, b.stream("named") as named:
            seen: dict[str, list[bytes]] = {"anonymous": [], "named": []}
            for round_ in range(4):
                await publisher.publish_many([("s", b"%d" % (round_ * 10 + i)) for i in range(10)])
                for _ in range(10):
                    seen["anonymous"].append((await anext(anonymous)).body)
                    seen["named"].append((await anext(named)).body)
                    if len(seen["named"]) % 7 == 3:
                        await b.status()
                        line.cut()
                if round_ == 1:
                    await named.commit()
        assert seen == {name: [b"%d" % i for i in range(40)] for name in seen}
        assert line.connections > 4


async def test_a_stream_from_latest_misses_nothing_while_away(broker: Broker, line: Line) -> None:
    async with client(line.url) as b, client(broker.url) as publisher:
        await publisher.publish("s", b"before")
        async with b.stream(topics="s") as stream:
            line.down = True
            line.cut()
            await until(lambda: not b.connected)
            await publisher.publish("s", b"meanwhile")
            line.down = False
            assert (await anext(stream)).body == b"meanwhile"


async def test_a_restarted_broker(broker: Broker) -> None:
    async with client(broker.url) as b:
        await b.put_subscription("q", "q")
        await b.publish("q", b"1")
        async with b.consume("q") as messages, b.stream(topics="q", from_="earliest") as stream:
            m = await anext(messages)
            assert (await anext(stream)).body == b"1"
            await broker.restart()
            m.ack()
            await b.publish("q", b"2")
            second = await anext(messages)
            assert (second.body, (await anext(stream)).body) == (b"2", b"2")
            await second.settle("ack")
            await until(lambda: broker.engine.subscription("q").lag == 0)
        assert broker.engine.subscription("q").retried == 0


async def test_a_draining_broker_gets_what_is_in_hand(broker: Broker) -> None:
    go, begun, finished = asyncio.Event(), [], []
    async with client(broker.url) as b:

        @b.worker("q", topics="q", concurrency=1, prefetch=5)
        async def slow(m: Message) -> None:
            begun.append(m.body)
            await go.wait()
            finished.append(m.body)

        running = asyncio.create_task(b.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        await b.publish_many([("q", b"%d" % i) for i in range(5)])
        await until(lambda: broker.engine.subscription("q").leased == 5 and begun)
        draining = asyncio.create_task(broker.drain())
        await until(lambda: b._connection._link.closing)  # type: ignore[union-attr]
        published = asyncio.create_task(b.publish("q", b"5"))
        go.set()
        await draining
        assert finished == [b"0"]
        await broker.start()
        assert (await published).offset is not None
        await until(lambda: broker.engine.subscription("q").lag == 0)
        assert broker.engine.subscription("q").retried == 0
        b.stop()
        await running
    assert sorted(finished) == [b"%d" % i for i in range(6)]


async def test_requests_survive_or_say_so(broker: Broker, line: Line) -> None:
    async with client(line.url) as b:
        line.deaf = True
        asked = asyncio.ensure_future(b.put_subscription("q", "q"))
        purging = asyncio.ensure_future(b.purge("q"))
        await until(lambda: broker.engine.subscriptions())
        line.cut()
        line.deaf = False
        assert await asked is False  # it was created the first time
        with pytest.raises(ConnectionLost, match="whether it was done is unknown"):
            await purging


async def test_waiting_can_be_given_up(broker: Broker, line: Line) -> None:
    async with client(line.url, close_timeout=0.05, window=1) as b:
        await b.put_subscription("q", "q")
        line.down = True
        line.cut()
        await until(lambda: not b.connected)
        stuck = asyncio.ensure_future(b.publish("q", b"1"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await b.publish("q", b"2")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(b.consume("q"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await b.status()
    with pytest.raises(ClientClosed):
        await stuck


async def test_answers_to_requests_come_over_the_new_connection(broker: Broker, line: Line) -> None:
    async with client(line.url) as b, client(broker.url) as server:

        @server.worker("double", topics="double")
        async def double(value: int) -> int:
            return value * 2

        running = asyncio.create_task(server.run(signals=False))
        await until(lambda: broker.engine.subscriptions())
        for i in range(4):
            assert (await b.request("double", i)).data == 2 * i
            line.cut()
        server.stop()
        await running


async def test_a_subscription_that_vanished_meanwhile_ends_its_consumers(broker: Broker, line: Line) -> None:
    async with client(line.url) as b, client(broker.url) as other:
        await b.put_subscription("q", "q")
        async with b.consume("q") as messages:
            waiting = asyncio.ensure_future(anext(messages))
            line.down = True
            line.cut()
            await until(lambda: not b.connected)
            await other.delete_subscription("q")
            line.down = False
            with pytest.raises(PostroomError, match="unknown_subscription"):
                await waiting
