"""A peer that misbehaves as no broker should, scripted frame by frame."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from postroom_client import ConnectionLost, PostroomError, wire

from tests.clients.world import client, until

SETTINGS = {"epoch": "ep", "sequence": 0, "max_frame": 1 << 20, "max_body": 1000, "max_batch": 10, "heartbeat": 0}


class Peer:
    """Accepts connections and says what it is told to: `greeting` on HELLO, `answers` by the type of a frame."""

    def __init__(self) -> None:
        self.greeting: list[bytes] = [wire.pack((wire.WELCOME, 1, SETTINGS))]
        self.answers: dict[int, Any] = {wire.DETACH: lambda frame: wire.pack((wire.DETACHED, frame[1]))}
        self.received: list[tuple[Any, ...]] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"postroom://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        frames = wire.FrameReader(1 << 20)
        try:
            while data := await reader.read(1 << 16):
                for frame in frames.feed(data):
                    self.received.append(frame)
                    for answer in self.greeting if frame[0] == wire.HELLO else self._answer(frame):
                        writer.write(answer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _answer(self, frame: tuple[Any, ...]) -> list[bytes]:
        answer = self.answers.get(frame[0])
        if frame[0] == wire.GOODBYE:
            self._writers[-1].close()
        return [] if answer is None else [answer(frame)]

    def say(self, *frame: Any) -> None:
        self._writers[-1].write(wire.pack(frame))

    def of(self, kind: int) -> list[tuple[Any, ...]]:
        return [frame for frame in self.received if frame[0] == kind]

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def peer() -> AsyncGenerator[Peer, None]:
    peer = Peer()
    await peer.start()
    yield peer
    await peer.stop()


async def test_the_greeting(peer: Peer) -> None:
    async with client(peer.url, name="me", publisher="p", token="secret"):
        hello = {"client": "me", "publisher": "p", "features": ("slowed",)}
        assert peer.received == [(wire.HELLO, 1, {**hello, "token": "secret"})]


@pytest.mark.parametrize("code", ["unauthenticated", "unsupported_version", "conflict"])
async def test_a_refusal_that_would_come_again_is_final(peer: Peer, code: str) -> None:
    peer.greeting = [wire.pack((wire.ERROR, None, code, "no"))]
    with pytest.raises(PostroomError, match=f"{code}: no"):
        await client(peer.url).open()
    assert peer.connections == 1


async def test_a_broker_that_starts_or_stops_is_tried_again(peer: Peer) -> None:
    welcome = peer.greeting
    peer.greeting = [wire.pack((wire.ERROR, None, "shutting_down", "soon"))]
    opening = asyncio.ensure_future(client(peer.url).open())
    await until(lambda: peer.connections >= 3)
    assert not opening.done()
    peer.greeting = welcome
    b = await opening
    await b.close()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x00\x01\xc1",
        wire.pack((wire.CONFIRM, "one", 2, 3)),
        wire.pack((wire.DELIVER, 1, 1, [[1]])),
        wire.pack((wire.ATTACHED, 1, 7)),
    ],
)
async def test_after_rubbish_it_connects_anew(peer: Peer, rubbish: bytes) -> None:
    async with client(peer.url) as b:
        peer.answers[wire.ATTACH] = lambda frame: wire.pack((wire.ATTACHED, frame[1], {}))
        async with b.consume("q") as messages:
            waiting = asyncio.ensure_future(anext(messages))
            peer._writers[-1].write(rubbish)
            await until(lambda: peer.connections == 2 and b.connected)
            assert not waiting.done()
            peer.say(wire.DELIVER, 1, 1, [[5, "t", 7, None, b"fine"]])
            m = await waiting
            assert m.body == b"fine"
            m.release()


async def test_frames_and_elements_of_a_later_version_are_ignored(peer: Peer) -> None:
    peer.answers[wire.PUBLISH] = lambda frame: wire.pack((wire.CONFIRM, frame[1], [[frame[1], 1, 9, 7]], [], "new"))
    async with client(peer.url) as b:
        peer.say(77, "what is this")
        assert (await b.publish("t", b"")).offset == 9


async def test_a_silent_broker_is_asked_then_left(peer: Peer) -> None:
    peer.greeting = [wire.pack((wire.WELCOME, 1, {**SETTINGS, "heartbeat": 0.02}))]
    async with client(peer.url, close_timeout=0.01) as b:
        await until(lambda: peer.connections >= 2)
        assert peer.of(wire.PING)
        assert "silent for 0.04 seconds" in str(b._connection._last_error)


async def test_a_broker_that_answers_is_kept(peer: Peer) -> None:
    peer.greeting = [wire.pack((wire.WELCOME, 1, {**SETTINGS, "heartbeat": 0.05}))]
    peer.answers[wire.PING] = lambda frame: wire.pack((wire.PONG, *frame[1:]))
    async with client(peer.url):
        await until(lambda: len(peer.of(wire.PING)) >= 5)
        assert peer.connections == 1
        peer.say(wire.PING, "you?")
        await until(lambda: (wire.PONG, "you?") in peer.received)


async def test_a_stream_that_was_too_slow_goes_on_where_it_was(peer: Peer) -> None:
    peer.answers[wire.ATTACH] = lambda frame: wire.pack((wire.ATTACHED, frame[1], {"position": "ep.0"}))
    async with client(peer.url) as b, b.stream(topics="t", from_="earliest") as stream:
        peer.say(wire.DELIVER, 1, 0, [[1, "t", 7, None, b"1"], [2, "t", 7, None, b"2"]])
        assert (await anext(stream)).body == b"1"
        peer.say(wire.DETACHED, 1, "slow_reader", "read faster")
        await until(lambda: len(peer.of(wire.ATTACH)) == 2)
        assert peer.of(wire.ATTACH)[1][3]["from"] == "ep.1"
        peer.say(wire.DELIVER, 1, 0, [[2, "t", 7, None, b"2"]])
        assert (await anext(stream)).body == b"2"


async def test_another_log_after_a_restore(peer: Peer) -> None:
    peer.answers[wire.ATTACH] = lambda frame: wire.pack((wire.ATTACHED, frame[1], {"lease": 1000}))
    async with client(peer.url) as b, b.consume("q") as messages:
        peer.say(wire.DELIVER, 1, 1, [[5, "t", 7, None, b"old"]])
        old = await anext(messages)
        peer.greeting = [wire.pack((wire.WELCOME, 1, {**SETTINGS, "epoch": "ep2"}))]
        peer._writers[-1].close()
        await until(lambda: b.epoch == "ep2")
        assert not old.in_hand
        await until(lambda: len(peer.of(wire.ATTACH)) == 2)
        peer.say(wire.DELIVER, 1, 2, [[5, "t", 7, None, b"new"]])
        new = await anext(messages)
        assert (new.body, new.position) == (b"new", "ep2.5")
        new.ack()


async def test_a_final_error_ends_everything_that_waits(peer: Peer) -> None:
    peer.answers[wire.ATTACH] = lambda frame: wire.pack((wire.ATTACHED, frame[1], {}))
    b = await client(peer.url).open()
    waiting = [
        asyncio.ensure_future(work)
        for work in (b.publish("t", b""), b.status(), anext(b.consume("q")), anext(b.stream(topics="t")), b.flush())
    ]
    await until(lambda: len(peer.of(wire.ATTACH)) == 2)
    peer.say(wire.ERROR, None, "bad_frame", "you are mad")
    peer._writers[-1].close()
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, PostroomError)
        assert error.code == "bad_frame"
    await b.close()
    assert peer.connections == 1


async def test_no_greeting_is_no_connection(peer: Peer) -> None:
    peer.greeting = []
    with pytest.raises(ConnectionLost, match="no broker at"):
        await client(peer.url, timeout=0.05).open()


async def test_a_reader_let_go_by_a_stopping_broker_goes_on_with_the_next(peer: Peer) -> None:
    peer.answers[wire.ATTACH] = lambda frame: wire.pack((wire.ATTACHED, frame[1], {}))
    async with client(peer.url) as b, b.consume("q") as messages:
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        peer.say(wire.DETACHED, 1, "shutting_down", "soon")
        peer.say(wire.ERROR, None, "shutting_down", "soon")
        await until(lambda: len(peer.of(wire.ATTACH)) == 2)
        peer.say(wire.DELIVER, 1, 1, [[5, "t", 7, None, b"fine"]])
        (await waiting).ack()
