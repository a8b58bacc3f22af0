"""The dialogue over a WebSocket on a real engine: what STREAM.md promises."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from broker.core.errors import BrokerError, Code
from broker.limits import Limits
from broker.protocols.http.frames import TEXT
from tests.protocols.http.conftest import PATIENCE, Door, DoorFactory, until
from tests.protocols.http.frames import masked


class Talk:
    """A client's end."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.welcome: Any = None

    async def say(self, kind: str, **members: Any) -> None:
        members = {name.rstrip("_"): value for name, value in members.items()}
        await self.socket.send_str(json.dumps({"type": kind, **members}))

    async def hear(self, kind: str) -> Any:
        """The next text, which must be of this type; heartbeats are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                text = json.loads(await self.socket.receive_str())
                if text["type"] != "heartbeat":
                    break
        assert text["type"] == kind, text
        return text

    async def ask(self, kind: str, answer: str, **members: Any) -> Any:
        await self.say(kind, **members)
        return await self.hear(answer)

    async def refused(self, kind: str, **members: Any) -> str:
        """The code of the refusal."""
        refused = await self.ask(kind, "refused", **members)
        assert refused["problem"]["detail"]
        return str(refused["problem"]["code"])

    async def messages(self, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            found += (await self.hear("messages"))["messages"]
        assert len(found) == count
        return found

    @property
    def transport(self) -> Any:
        assert self.socket._conn is not None
        return self.socket._conn.transport

    async def closed(self) -> tuple[Any, Any]:
        """Code and reason of the close."""
        async with asyncio.timeout(PATIENCE):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        return message.data, message.extra


class Talks:
    def __init__(self) -> None:
        self.open: list[aiohttp.ClientWebSocketResponse] = []

    async def __call__(self, door: Door, **options: Any) -> Talk:
        socket = await door.session.ws_connect("/v1/stream", autoclose=False, max_msg_size=0, **options)
        self.open.append(socket)
        talk = Talk(socket)
        talk.welcome = await talk.hear("welcome")
        return talk


@pytest.fixture
async def connect() -> AsyncIterator[Talks]:
    talks = Talks()
    yield talks
    for socket in talks.open:
        await socket.close()


@pytest.fixture
async def talk(door: Door, connect: Talks) -> Talk:
    return await connect(door)


# Streams


async def test_it_greets_with_what_a_client_must_know(door: Door, talk: Talk) -> None:
    assert talk.welcome["epoch"] == door.engine.epoch
    assert talk.welcome["max_subscriptions"] == door.hub.limits.max_consumers_per_connection


async def test_several_subscriptions_each_with_its_own_answer(door: Door, talk: Talk) -> None:
    for topic in ("a", "b", "a"):
        await door.publish(topic, b"1")
    start = await talk.ask("subscribe", "start", sub=1, topics=["a"], from_="earliest")
    assert start == {"type": "start", "sub": 1, "recovered": True, "position": f"{door.engine.epoch}.0"}
    assert [m["offset"] for m in await talk.messages(2)] == [1, 3]
    start = await talk.ask("subscribe", "start", sub=2, topics=["#"], from_=start["position"])
    assert [m["topic"] for m in await talk.messages(3)] == ["a", "b", "a"]
    await door.publish("b", b"2")
    live = await talk.hear("messages")
    assert (live["sub"], [m["offset"] for m in live["messages"]]) == (2, [4])


async def test_a_position_of_another_log_is_told(talk: Talk) -> None:
    start = await talk.ask("subscribe", "start", sub=1, topics=["a"], from_="abcdef.1")
    assert start["recovered"] is False


async def test_unsubscribe_ends_one_and_says_how_far_it_came(door: Door, talk: Talk) -> None:
    await door.publish("a", b"1")
    for number in (1, 2):
        await talk.ask("subscribe", "start", sub=number, topics=["a"], from_="earliest")
        await talk.messages(1)
    ended = await talk.ask("unsubscribe", "ended", sub=1)
    assert ended == {"type": "ended", "sub": 1, "position": f"{door.engine.epoch}.1"}
    await door.publish("a", b"2")
    assert (await talk.hear("messages"))["sub"] == 2
    assert await talk.refused("unsubscribe", sub=1) == "not_found"


async def test_credit_is_kept_to(door: Door, talk: Talk) -> None:
    for n in range(5):
        await door.publish("a", str(n))
    await talk.ask("subscribe", "start", sub=1, topics=["a"], from_="earliest", credit=2)
    assert [m["offset"] for m in await talk.messages(2)] == [1, 2]
    await talk.ask("ping", "pong")  # nothing came in between
    await talk.say("credit", sub=1, messages=3)
    assert [m["offset"] for m in await talk.messages(3)] == [3, 4, 5]


async def test_one_at_a_time_and_thinned_is_told(door: Door, talk: Talk) -> None:
    await talk.ask("subscribe", "start", sub=1, topics=["a"], slow="thin", credit=1)
    for n in range(5):
        await door.publish("a", str(n), Content_Type="text/plain")
    assert (await talk.messages(1))[0]["body"] == "0"
    await talk.say("credit", sub=1, messages=1)
    thinned = await talk.hear("thinned")
    assert (thinned["left_out"], thinned["position"]) == (3, f"{door.engine.epoch}.5")
    assert (await talk.messages(1))[0]["body"] == "4"


async def test_one_reader_is_dropped_and_the_socket_stays(open_door: DoorFactory, connect: Talks) -> None:
    door = await open_door(slow_after="100ms")
    talk = await connect(door)
    await talk.ask("subscribe", "start", sub=1, topics=["a"], slow="drop", credit=1)
    await door.publish("a", b"1")
    await talk.messages(1)
    await door.publish("a", b"2")
    await asyncio.sleep(0.15)
    ended = await talk.ask("credit", "ended", sub=1, messages=1)
    assert ended["problem"]["code"] == "slow_reader"
    assert ended["position"] == f"{door.engine.epoch}.1"
    await talk.ask("subscribe", "start", sub=1, topics=["a"], from_=ended["position"])
    assert [m["offset"] for m in await talk.messages(1)] == [2]


async def test_a_named_stream_goes_on_from_its_committed_cursor(door: Door, connect: Talks) -> None:
    await door.queue("bi", ["a"], kind="stream")
    for n in range(4):
        await door.publish("a", str(n))
    talk = await connect(door)
    assert (await talk.ask("subscribe", "start", sub=1, subscription="bi"))["recovered"] is True
    seen = await talk.messages(4)
    await talk.ask("commit", "committed", sub=1, position=seen[1]["position"], ref="c")
    await talk.socket.close()
    await door.restart()
    talk = await connect(door)
    await talk.ask("subscribe", "start", sub=1, subscription="bi")
    assert [m["offset"] for m in await talk.messages(2)] == [3, 4]
    assert await talk.refused("commit", sub=1, position="abcdef.1") == "bad_position"


# Publish


async def test_publish_answers_after_the_commit_and_stores_an_id_once(door: Door, talk: Talk) -> None:
    messages = [
        {"topic": "a", "body": {"x": [1, None]}, "id": "one", "key": "k", "headers": {"h": "v"}, "priority": 3},
        {"topic": "b", "body": "hello", "content_type": "text/plain"},
        {"topic": "c", "body_base64": "AP8="},
        {"topic": "d", "body": 1, "delay": "1h"},
        {"topic": "$reply/in-no-log", "body": 1},
    ]
    receipts = (await talk.ask("publish", "published", ref=1, messages=messages))["receipts"]
    assert [r["offset"] for r in receipts] == [1, 2, 3, None, None]
    assert "due" in receipts[3]
    assert receipts[4] == {"id": None, "offset": None, "position": None, "duplicate": False}
    page = (await door("GET", "/v1/topics/%23/messages")).json["messages"]
    assert [m.get("body", m.get("body_base64")) for m in page] == [{"x": [1, None]}, "hello", "AP8="]
    assert (page[0]["id"], page[0]["key"], page[0]["headers"], page[0]["priority"]) == ("one", "k", {"h": "v"}, 3)
    assert page[0]["content_type"] == "application/json"
    again = (await talk.ask("publish", "published", ref=2, messages=messages[:1]))["receipts"]
    assert (again[0]["offset"], again[0]["duplicate"]) == (1, True)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"topic": "a"}, "bad_message"),
        ({"topic": "a", "body": 1, "body_base64": ""}, "bad_message"),
        ({"topic": "a", "body_base64": "*"}, "bad_message"),
        ({"topic": "a", "body_base64": 7}, "bad_message"),
        ({"topic": "a", "body": 1, "content_type": "text/plain"}, "bad_message"),
        ({"topic": "a", "body": "\ud800"}, "bad_request"),
        ({"topic": "a", "body": 1, "content_type": 7}, "bad_option"),
        ({"topic": "a", "body": 1, "colour": "red"}, "bad_option"),
        ({"topic": "a", "body": 1, "delay": "soon"}, "bad_option"),
        ({"topic": "a", "body": 1, "headers": {"a": 1}}, "bad_option"),
        ({"topic": "a/#", "body": 1}, "bad_topic"),
        ({"body": 1}, "bad_topic"),
        ({"topic": 7, "body": 1}, "bad_topic"),
        ({"topic": "$sys/a", "body": 1}, "forbidden"),
        ("a", "bad_message"),
    ],
)
async def test_a_bad_message_refuses_its_publish_whole(door: Door, talk: Talk, message: Any, code: str) -> None:
    assert await talk.refused("publish", ref=1, messages=[{"topic": "a", "body": 1}, message]) == code
    assert door.engine.log.end == 0


async def test_a_body_over_the_limit_is_refused_and_the_socket_stays(open_door: DoorFactory, connect: Talks) -> None:
    door = await open_door(Limits(max_body=1_000))
    talk = await connect(door)
    code = await talk.refused("publish", ref=1, messages=[{"topic": "a", "body": "x" * 1_000}])
    assert code == "message_too_large"
    await talk.ask("publish", "published", ref=1, messages=[{"topic": "a", "body": "x" * 900}])


async def test_a_client_that_publishes_faster_than_the_disk_is_held_and_loses_nothing(
    open_door: DoorFactory, connect: Talks
) -> None:
    door = await open_door(Limits(max_uncommitted_per_connection=1 << 16))
    talk = await connect(door)
    for n in range(200):
        await talk.say("publish", ref=n, messages=[{"topic": "a", "body": "x" * 5_000}])
    assert [(await talk.hear("published"))["ref"] for _ in range(200)] == list(range(200))
    assert door.engine.log.end == 200


# Queues


async def test_a_queue_is_worked_by_credit_and_settles(door: Door, talk: Talk) -> None:
    await door.queue("work", ["a"])
    for n in range(4):
        await door.publish("a", str(n))
    start = await talk.ask("subscribe", "start", sub=1, subscription="work", credit=2)
    assert start == {"type": "start", "sub": 1, "lease_seconds": 30.0}
    got = await talk.messages(2)
    assert [(m["offset"], m["attempt"]) for m in got] == [(1, 1), (2, 1)]
    assert (await talk.ask("extend", "extended", sub=1, offsets=[1, 9], duration="60s", ref=1))["lost"] == [9]
    settled = await talk.ask("settle", "settled", sub=1, outcome="ack", offsets=[1], ref=2)
    assert settled == {"type": "settled", "ref": 2, "lost": []}
    await talk.ask("settle", "settled", sub=1, outcome="retry", offsets=[2], delay=0, error="no", ref=3)
    await talk.say("credit", sub=1, messages=10)
    got = await talk.messages(3)
    assert sorted((m["offset"], m["attempt"]) for m in got) == [(2, 2), (3, 1), (4, 1)]
    assert (await talk.ask("settle", "settled", sub=1, outcome="ack", offsets=[1], ref=4))["lost"] == [1]
    await talk.ask("settle", "settled", sub=1, outcome="reject", offsets=[2], ref=5)
    assert (await door.info("work"))["dead_letters"] == 1


async def test_what_a_lost_socket_held_is_ready_again(door: Door, connect: Talks) -> None:
    await door.queue("work", ["a"])
    await door.publish("a", b"1")
    talk = await connect(door)
    await talk.ask("subscribe", "start", sub=1, subscription="work", credit=1)
    await talk.messages(1)
    talk.transport.abort()  # no goodbye
    await until(lambda: len(door.server._streams.sockets) == 0)
    assert [m["offset"] for m in await door.receive("work")] == [1]


async def test_a_deleted_queue_ends_its_subscription_alone(door: Door, talk: Talk) -> None:
    await door.queue("work", ["a"])
    await talk.ask("subscribe", "start", sub=1, subscription="work", credit=1)
    await door("DELETE", "/v1/subscriptions/work")
    ended = await talk.hear("ended")
    assert (ended["sub"], ended["problem"]["code"]) == (1, "unknown_subscription")
    await talk.ask("ping", "pong", ref=1)


# What is refused


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"type": "subscribe"}, "bad_request"),
        ({"type": "subscribe", "sub": 1}, "bad_filter"),
        ({"type": "subscribe", "sub": 1, "topics": []}, "bad_filter"),
        ({"type": "subscribe", "sub": 1, "topics": "a"}, "bad_filter"),
        ({"type": "subscribe", "sub": 1, "topics": ["a/#/b"]}, "bad_filter"),
        ({"type": "subscribe", "sub": 1, "topics": [1]}, "bad_filter"),
        ({"type": "subscribe", "sub": -1, "topics": ["a"]}, "bad_request"),
        ({"type": "subscribe", "sub": True, "topics": ["a"]}, "bad_request"),
        ({"type": "subscribe", "sub": 1 << 60, "topics": ["a"]}, "bad_request"),
        ({"type": "subscribe", "sub": 1, "topics": ["a"], "from": "then"}, "bad_position"),
        ({"type": "subscribe", "sub": 1, "topics": ["a"], "from": {}}, "bad_position"),
        ({"type": "subscribe", "sub": 1, "topics": ["a"], "slow": "stop"}, "bad_option"),
        ({"type": "subscribe", "sub": 1, "topics": ["a"], "slow": []}, "bad_option"),
        ({"type": "subscribe", "sub": 1, "topics": ["a"], "credit": "all"}, "bad_request"),
        ({"type": "subscribe", "sub": 1, "topics": ["a"], "start": 1}, "bad_option"),
        ({"type": "subscribe", "sub": 1, "subscription": "none"}, "unknown_subscription"),
        ({"type": "subscribe", "sub": 1, "subscription": 7}, "bad_request"),
        ({"type": "subscribe", "sub": 1, "subscription": "\ud800"}, "bad_request"),
        ({"type": "settle", "sub": 8, "outcome": "retry", "offsets": [1], "error": "\ud800"}, "bad_request"),
        ({"type": "subscribe", "sub": 1, "subscription": "work"}, "bad_option"),
        ({"type": "subscribe", "sub": 1, "subscription": "work", "credit": 1, "slow": "thin"}, "bad_option"),
        ({"type": "subscribe", "sub": 1, "subscription": "bi", "from": "latest"}, "bad_option"),
        ({"type": "credit", "sub": 5, "messages": 1}, "not_found"),
        ({"type": "credit", "sub": 9, "messages": 0}, "bad_request"),
        ({"type": "settle", "sub": 9, "outcome": "ack", "offsets": [1]}, "wrong_kind"),
        ({"type": "settle", "sub": 9, "outcome": "eat", "offsets": [1]}, "bad_option"),
        ({"type": "settle", "sub": 9, "outcome": [], "offsets": [1]}, "bad_option"),
        ({"type": "settle", "sub": 8, "outcome": "ack", "offsets": []}, "bad_request"),
        ({"type": "settle", "sub": 8, "outcome": "ack", "offsets": ["1"]}, "bad_request"),
        ({"type": "settle", "sub": 8, "outcome": "ack", "offsets": [-1]}, "bad_request"),
        ({"type": "settle", "sub": 8, "outcome": "ack", "offsets": [1], "delay": 1}, "bad_option"),
        ({"type": "settle", "sub": 8, "outcome": "retry", "offsets": [1], "delay": "x"}, "bad_option"),
        ({"type": "settle", "sub": 8, "outcome": "retry", "offsets": [1], "error": 1}, "bad_option"),
        ({"type": "extend", "sub": 8, "offsets": [1], "duration": "1ms"}, "bad_option"),
        ({"type": "extend", "sub": 8, "offsets": [1]}, "bad_option"),
        ({"type": "commit", "sub": 9, "position": "x"}, "bad_position"),
        ({"type": "commit", "sub": 9}, "bad_position"),
        ({"type": "publish", "messages": [{"topic": "a", "body": 1}]}, "bad_request"),
        ({"type": "publish", "ref": 1, "messages": []}, "bad_request"),
        ({"type": "publish", "ref": 1, "messages": {}}, "bad_request"),
        ({"type": "publish", "ref": [1], "messages": [{"topic": "a", "body": 1}]}, "bad_request"),
        ({"type": "publish", "ref": "x" * 101, "messages": [{"topic": "a", "body": 1}]}, "bad_request"),
        ({"type": "ping", "ref": 1, "more": 1}, "bad_option"),
        ({"type": "dance"}, "bad_request"),
    ],
)
async def test_what_is_refused_ends_nothing(door: Door, talk: Talk, members: dict[str, Any], code: str) -> None:
    await door.queue("work", ["a"])
    await door.queue("bi", ["a"], kind="stream")
    await talk.ask("subscribe", "start", sub=9, topics=["a"])
    await talk.ask("subscribe", "start", sub=8, subscription="work", credit=0)
    await talk.socket.send_str(json.dumps(members))
    refused = await talk.hear("refused")
    assert refused["problem"]["code"] == code, refused
    assert refused["problem"]["detail"] or code == "unknown_subscription"
    await talk.ask("ping", "pong", ref="still here")
    await door.publish("a", b"1")
    assert (await talk.hear("messages"))["sub"] == 9


async def test_a_refusal_says_what_it_refuses(talk: Talk) -> None:
    refused = await talk.ask("settle", "refused", sub=3, outcome="ack", offsets=[1], ref="r")
    assert (refused["request"], refused["sub"], refused["ref"]) == ("settle", 3, "r")


async def test_subscriptions_are_counted(open_door: DoorFactory, connect: Talks) -> None:
    talk = await connect(await open_door(Limits(max_consumers_per_connection=2)))
    for number in (1, 2):
        await talk.ask("subscribe", "start", sub=number, topics=["a"])
    assert await talk.refused("subscribe", sub=2, topics=["a"]) == "bad_request"
    assert await talk.refused("subscribe", sub=3, topics=["a"]) == "rate_limited"
    await talk.ask("unsubscribe", "ended", sub=1)
    await talk.ask("subscribe", "start", sub=3, topics=["a"])


MEMBERS: dict[str, dict[str, list[Any]]] = {
    "subscribe": {"sub": [1, 2, 3], "topics": [["a"], ["#"], []], "from": ["earliest", 0], "slow": ["thin", "drop"]},
    "unsubscribe": {"sub": [1, 2, 3]},
    "credit": {"sub": [1, 2, 3], "messages": [1, 10]},
    "publish": {"ref": [1, "r"], "messages": [[{"topic": "a", "body": 1}]]},
    "settle": {"sub": [2, 3], "outcome": ["ack", "retry", "reject"], "offsets": [[1], [1, 2]], "delay": [0, "1s"]},
    "extend": {"sub": [2, 3], "offsets": [[1, 2]], "duration": ["1m"], "ref": [1]},
    "commit": {"sub": [1, 2], "position": ["e.1"], "ref": [1]},
    "ping": {"ref": [1]},
    "dance": {},
}
NAMED = ({"subscription": "work", "credit": 9}, {"subscription": "bi"})
DRAFT: dict[str, list[Any]] = {"topic": ["a"], "body": [1, {}], "key": ["k"], "headers": [{"h": "v"}], "delay": ["1h"]}
SCRAPS: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 1 << 70, 1.5, 1e308, "", "a", "a/#/b", "work", "bi", "latest", "AA==", "x" * 300, "\ud800"),
    *(
        "\0",
        [],
        [1],
        ["a"],
        [[]],
        [None],
        [-1],
        {},
        {"a": 1},
        [{"topic": "a"}],
        {"body_base64": "*"},
        "wait",
        "release",
    ),
)


def written(chance: random.Random, members: dict[str, list[Any]]) -> dict[str, Any]:
    """Mostly what fits, now and then a scrap, or nothing, or something of another's."""
    text: dict[str, Any] = {}
    for name, fitting in members.items():
        if chance.random() < 0.85:
            text[name] = chance.choice(SCRAPS) if chance.random() < 0.15 else chance.choice(fitting)
    if chance.random() < 0.1:
        text[chance.choice(["sub", "ref", "topics", "priority", "id", "error", "colour"])] = chance.choice(SCRAPS)
    return text


async def test_whatever_is_said_has_an_answer(door: Door, talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    await door.queue("work", ["a"])
    await door.queue("bi", ["a"], kind="stream")
    chance = random.Random(20261125)
    answers: set[str] = set()
    for n in range(3_000):
        kind = chance.choice(list(MEMBERS))
        text = {"type": kind, **written(chance, MEMBERS[kind])}
        if kind == "subscribe" and chance.random() < 0.3:
            text = {"type": kind, "sub": text.get("sub"), **chance.choice(NAMED)}
        if kind == "publish" and chance.random() < 0.5:
            text["messages"] = [written(chance, DRAFT)]
        await talk.socket.send_str(json.dumps(text))
        if n % 50 == 0:  # what came back is read, or the broker would stop reading
            await talk.say("ping", ref=f"mark {n}")
            while (heard := json.loads(await talk.socket.receive_str())).get("ref") != f"mark {n}":
                answers.add(heard["type"])
                assert heard.get("problem", {}).get("code") != "internal", heard
    assert {"start", "messages", "ended", "published", "refused", "extended", "pong"} <= answers
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# The end


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "{}", '{"type": 1}', '{"type": "ping", "ref": NaN}', "[" * 100_000]
)
async def test_what_cannot_be_understood_ends_it(talk: Talk, text: str) -> None:
    await talk.socket.send_str(text)
    assert (await talk.hear("error"))["problem"]["code"] == "bad_frame"
    assert await talk.closed() == (1007, "bad_frame")


async def test_binary_messages_are_refused(talk: Talk) -> None:
    await talk.socket.send_bytes(b"\x00")
    assert (await talk.hear("error"))["problem"]["code"] == "unsupported"
    assert await talk.closed() == (1003, "unsupported")


async def test_a_text_over_the_limit_is_refused_by_its_length(open_door: DoorFactory, connect: Talks) -> None:
    door = await open_door(Limits(max_body=1_000))
    talk = await connect(door)
    size = talk.welcome["max_text"] + 1
    talk.transport.write(b"\x81\xff" + size.to_bytes(8, "big") + b"\0\0\0\0")
    assert (await talk.closed())[0] == 1009


async def test_a_text_of_just_the_limit_is_taken(open_door: DoorFactory, connect: Talks) -> None:
    door = await open_door(Limits(max_body=1_000))
    talk = await connect(door)
    await talk.socket.send_str('{"type":"ping"}'.ljust(talk.welcome["max_text"]))
    await talk.hear("pong")


async def test_a_text_that_does_not_end_counts_as_arriving(door: Door, talk: Talk) -> None:
    (connection,) = door.server.connections
    await talk.ask("ping", "pong")
    assert connection.arriving == 0
    talk.transport.write(b"\x81\xfe\x10\x00\0\0\0\0" + b" " * 4_000)
    await until(lambda: connection.arriving >= 4_000)
    talk.transport.write(b" " * (4_096 - 4_000 - 15) + b'{"type":"ping"}')
    await talk.hear("pong")
    assert connection.arriving == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x82\0\0\0\0\xff\xfe", 1007),  # not UTF-8
        (b"\xc1\x81\0\0\0\0x", 1002),  # a compressed frame, which nobody agreed on
        (b"\x83\x80\0\0\0\0", 1002),  # no such opcode
        (b'\x81\x0f{"type":"ping"}', 1002),  # not masked
        (b"\x89\0", 1002),
        (b"\x81\x7e\xff\xff", 1002),  # told by its head
    ],
)
async def test_a_broken_websocket_is_closed(talk: Talk, data: bytes, code: int) -> None:
    talk.transport.write(data)
    assert (await talk.closed())[0] == code


async def test_what_came_before_a_frame_that_is_not_masked_is_answered(talk: Talk) -> None:
    text = b'{"type":"ping"}'
    talk.transport.write(masked(text, TEXT) + b"\x81\x0f" + text)
    await talk.hear("pong")
    assert (await talk.closed())[0] == 1002


async def test_no_extension_is_agreed_on(door: Door, connect: Talks) -> None:
    talk = await connect(door, compress=15)
    assert "Sec-WebSocket-Extensions" not in talk.socket._response.headers
    assert talk.socket.compress == 0


async def test_a_fault_of_ours_is_told_and_logged(
    door: Door, talk: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door.hub, "prepare", None)
    await talk.say("publish", ref=1, messages=[{"topic": "a", "body": 1}])
    assert (await talk.hear("error"))["problem"]["code"] == "internal"
    assert await talk.closed() == (1011, "internal")
    assert "was not understood" in caplog.text


async def test_stopping_tells_everybody(door: Door, talk: Talk) -> None:
    await talk.ask("subscribe", "start", sub=1, topics=["a"])
    stopping = asyncio.create_task(door.server.stop(1))
    assert (await talk.hear("error"))["problem"]["code"] == "shutting_down"
    assert await talk.closed() == (1001, "shutting_down")
    await talk.socket.close()
    await stopping
    assert not door.engine.attachments


async def test_one_that_is_dismissed_is_told_why(door: Door, talk: Talk) -> None:
    (connection,) = door.server.connections
    connection.dismiss(BrokerError(Code.UNAUTHENTICATED, "the token was revoked"))
    assert (await talk.hear("error"))["problem"]["detail"] == "the token was revoked"
    assert await talk.closed() == (1008, "unauthenticated")


async def test_a_client_that_says_nothing_is_taken_for_gone(open_door: DoorFactory, connect: Talks) -> None:
    door = await open_door(heartbeat="100ms")
    await connect(door, autoping=False)  # the client never reads, so that it answers no ping
    await until(lambda: len(door.server._streams.sockets) == 0)


async def test_heartbeats_are_seen_by_pages_and_answered_by_browsers(open_door: DoorFactory, connect: Talks) -> None:
    door = await open_door(heartbeat="100ms")
    talk = await connect(door)
    for _ in range(5):
        assert json.loads(await talk.socket.receive_str()) == {"type": "heartbeat"}


async def test_a_client_that_does_not_read_is_held_and_then_dropped(open_door: DoorFactory, connect: Talks) -> None:
    door = await open_door(write_timeout="300ms")
    talk = await connect(door)
    talk.transport.pause_reading()
    await talk.say("subscribe", sub=1, topics=["a"])
    await until(lambda: bool(door.engine.attachments))
    (socket,) = door.server._streams.sockets._sockets
    most = 0
    for _ in range(120):
        await door.publish("a", b"x" * 100_000)
        ours = socket._connection.transport
        most = max(most, ours.get_write_buffer_size() if ours else 0)
    await until(lambda: len(door.server._streams.sockets) == 0)
    assert most < 2 << 20
    assert not door.engine.attachments
    talk.transport.abort()  # it would wait for an end that it does not read


# The handshake


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Upgrade": "websocket"}, 400, "bad_request"),
        ({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "9"}, 400, "bad_request"),
        ({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}, 400, "bad_request"),
        ({"Upgrade": "websocket", "Connection": "Upgrade", "Origin": "https://evil.example"}, 403, "forbidden"),
        ({"Upgrade": "websocket", "Connection": "Upgrade", "Host": "evil.example"}, 403, "forbidden"),
    ],
)
async def test_bad_handshakes(door: Door, headers: dict[str, str], status: int, code: str) -> None:
    lines = {"Host": door.address, **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    reader, writer = await door.connect()
    writer.write(f"GET /v1/stream HTTP/1.1\r\n{head}\r\n".encode())
    async with asyncio.timeout(PATIENCE):
        assert (await reader.readline()).startswith(b"HTTP/1.1 %d" % status)
        await reader.readuntil(f'"code": "{code}"'.encode())
        if status == 400:
            await reader.readuntil(b"send Connection: Upgrade, Upgrade: websocket, Sec-WebSocket-Version: 13")
        writer.write(f"GET /livez HTTP/1.1\r\nHost: {door.address}\r\n\r\n".encode())
        await reader.readuntil(b"HTTP/1.1 200")  # the connection is as it was


async def test_query_parameters_are_not_for_websockets(door: Door) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await door.session.ws_connect("/v1/stream?topic=a")  # what a reader wants it says over the socket
    assert refused.value.status == 400


async def test_a_commit_is_encoded_and_framed_once_for_all(door: Door, connect: Talks) -> None:
    talks = [await connect(door) for _ in range(5)]
    for one in talks:
        await one.ask("subscribe", "start", sub=1, topics=["a"])
    await door.publish("a", b"1")
    for one in talks:
        await one.messages(1)
    frames = door.server._streams.sockets._frames
    assert (len(frames._frames), len(frames._texts._known)) == (1, 1)
