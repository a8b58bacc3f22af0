"""Every door × every verb: who may not gets nothing done and learns nothing, not even whether a name exists.

The routes of the HTTP door and the verbs of the native one are taken from the doors themselves, so that one that is
added tomorrow is tried too. A real daemon with `[auth]`, in this process.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
from yarl import URL

from broker.auth.grant import EVERYTHING, parse_grant
from broker.auth.principal import LOCAL
from broker.config import Config
from broker.core.spec import parse_spec
from broker.core.subscription import Outcome
from broker.daemon import Daemon
from broker.engine.base import Set, Settle, Unit
from broker.hub import Outgoing
from broker.protocols.http.router import Route
from broker.protocols.native import wire

PATIENCE = 20.0
SECRETS = ("jobs", "mailer", "hidden", "sched-1", "ann", "pr_")
"""Names of what is there, none of which may be in an answer to who did not name it."""
LISTS = {"subscriptions", "topics", "scheduled", "keys"}
NARROW = tuple(map(parse_grant, ("publish other/#", "consume other/#", "manage other/#", "consume subscription:other")))


class World:
    """The daemon with something of everything in it, and clients of it."""

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession) -> None:
        self.daemon = daemon
        self.session = session
        self.http = daemon.addresses["http"][0]
        self.writers: list[asyncio.StreamWriter] = []

    async def fill(self) -> None:
        hub = self.daemon.hub
        await hub.put_subscription(LOCAL, parse_spec("mailer", {"topics": ["jobs"]}))
        await hub.put_subscription(LOCAL, parse_spec("hidden", {"kind": "stream", "topics": ["jobs"]}))
        published = await hub.publish(LOCAL, [Outgoing("jobs", b"body") for _ in range(3)])
        await hub.settle(LOCAL, [Settle("mailer", Outcome.REJECT, published[0].offset or 0)])
        await hub.publish(LOCAL, [Outgoing("jobs", b"later", {"id": "sched-1", "delay": 3_600_000})])
        await hub.committed(Unit(sets=[Set("hidden", b"value")]))

    async def token(self, name: str, *grants: Any) -> str:
        directory = self.daemon.directory
        if grants:
            await directory.add_grants(name, grants)
        return (await directory.create_token(name))[0]

    async def state(self) -> Any:
        """All that a request could change, but for the audit trail."""
        engine = self.daemon.engine
        stats = engine.stats()
        return (
            stats.scheduled,
            [asdict(info) | {"lag": 0, "floor": 0} for info in engine.subscriptions()],  # the trail moves these
            [topic for topic in engine.topics() if topic.name != "$sys/audit"],
            [(key, await engine.get(key)) for key in await engine.keys("")],
        )

    async def ask(self, method: str, path: str, body: Any, token: str | None) -> tuple[int, str]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        url = URL(f"{self.http}{path}", encoded=True)
        async with self.session.request(method, url, data=data, headers=headers) as answer:
            return answer.status, (await answer.read()).decode()

    async def native(self, *frames: Any, until: Any = None) -> list[Any]:
        """Say these; all that is heard until the door closes, or answers the request of this number."""
        host, port = self.daemon.addresses["native"][0].rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        heard: list[Any] = []
        try:
            writer.write(b"".join(map(wire.encode, frames)))
            async with asyncio.timeout(PATIENCE):
                while size := await reader.read(4):
                    data = await reader.readexactly(int.from_bytes(size, "big"))
                    heard.append(msgpack.unpackb(data, strict_map_key=False))
                    if heard[-1][0] in (wire.REPLY, wire.ERROR) and heard[-1][1] == until:
                        break
        finally:
            writer.close()
        return heard


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    doors: dict[str, Any] = {"native": {"port": 0}, "http": {"port": 0}, "mqtt": {"port": 0}, "grace": 0}
    config = Config.model_validate({**doors, "auth": {}, "data_dir": tmp_path / "data"})
    said: list[str] = []
    daemon = Daemon(config, environ={}, say=said.append)
    await daemon.start()
    assert any("admin.token" in line for line in said)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session:
        world = World(daemon, session)
        await world.fill()
        yield world
        for writer in world.writers:
            writer.transport.abort()
    await daemon.stop()


# HTTP


def request_of(route: Route, there: bool) -> tuple[str, str, Any]:
    """A well formed request to a route, about something that is there or not."""
    names = {"topic": "jobs", "id": "sched-1", "name": "mailer", "key": "hidden"}
    if "principals" in route.path:
        names["name"] = "ann"
    if "tokens/" in route.path:
        names["id"] = "000000000000"
    if "connections" in route.path:
        names["id"] = "http-1"
    names["client"] = "sensor"
    path = re.sub(r"\{(\w+)\}", lambda m: names[m[1]] if there else "nothing", route.path)
    query = [f"{p.name}={p.example}" for p in route.operation.parameters if p.required and p.place == "query"]
    if route.path == "/v1/stream":
        query = ["topic=jobs" if there else "topic=nothing"]
    body = route.operation.body
    value = None
    if body is not None:
        value = body.example if body.example is not None else {}
        if route.name == "settle":
            value = []
        elif route.name == "move_cursor":
            value = {"position": "00000000.1"}
        elif route.name == "unit":  # its example settles by a receipt, which nobody can make up
            value = {"publish": [{"topic": names["topic"] if there else "nothing", "body": 1}]}
    return route.method, path + ("?" + "&".join(query).replace("#", "%23").replace(" ", "%20") if query else ""), value


async def test_who_says_nothing_gets_nothing_over_http(world: World) -> None:
    before = await world.state()
    said = set()
    for route in world.daemon._http.routes:
        if route.open:
            continue
        for there in (True, False):
            status, text = await world.ask(*request_of(route, there), None)
            assert status == 401, route
            said.add(text)
    assert len(said - {""}) == 1
    assert await world.state() == before


@pytest.mark.parametrize("grants", [(), NARROW])
async def test_who_may_not_does_nothing_and_learns_nothing_over_http(world: World, grants: Any) -> None:
    token = await world.token("mallory", *grants)
    await world.token("ann", EVERYTHING)
    before = await world.state()
    tried = 0
    for route in world.daemon._http.routes:
        if route.open:
            continue
        tried += 1
        method, path, body = request_of(route, True)
        status, text = await world.ask(method, path, body, token)
        if route.name in LISTS:
            assert status == 200, (route, text)
            listed = [value for value in json.loads(text).values() if isinstance(value, list)]
            assert listed == [[]], route
            continue
        elsewhere = request_of(route, False)
        other_status, other = await world.ask(*elsewhere, token)
        assert status == other_status, route
        assert status in (403, 404), (route, text)
        said = f"{path} {json.dumps(body)}"  # what the request itself named it may hear again
        for secret in SECRETS:
            assert secret not in text or secret in said, (route, text)
            text = text.replace(secret, "nothing")
        if method != "HEAD":
            assert text == other, route
    assert tried > 20
    assert await world.state() == before


async def test_who_may_not_does_nothing_and_learns_nothing_over_a_websocket(world: World) -> None:
    token = await world.token("mallory", *NARROW)
    before = await world.state()
    said = []
    for queue, stream, topic in (("mailer", "hidden", "jobs"), ("nothing",) * 3):
        requests: list[dict[str, Any]] = [
            {"type": "subscribe", "sub": 1, "topics": [topic], "from": "earliest"},
            {"type": "subscribe", "sub": 2, "topics": ["#"], "from": "earliest"},
            {"type": "subscribe", "sub": 3, "subscription": queue},
            {"type": "subscribe", "sub": 4, "subscription": stream},
            {"type": "publish", "ref": 1, "messages": [{"topic": topic, "body": 1}]},
            {"type": "settle", "ref": 2, "sub": 3, "outcome": "ack", "offsets": [1]},
            {"type": "commit", "ref": 3, "sub": 4, "position": "00000000.1"},
        ]
        async with world.session.ws_connect(f"{world.http}/v1/stream", headers=bearer(token)) as socket:
            assert (await socket.receive_json())["type"] == "welcome"
            answers = []
            for request in requests:
                await socket.send_json(request)
                answers.append(await socket.receive_json(timeout=PATIENCE))
        for request, refusal in zip(requests, answers, strict=True):
            assert refusal["type"] == "refused", (request, refusal)
            if request["type"] in ("subscribe", "publish"):
                assert refusal["problem"]["code"] == "forbidden", (request, refusal)
        text = json.dumps(answers)
        for name in (queue, stream, topic):
            text = text.replace(name, "nothing")
        said.append(text)
    assert said[0] == said[1]
    assert await world.state() == before


# Native


def frames_of(there: bool) -> list[Any]:
    """Every frame that does something, about something that is there or not."""
    queue, topic, key = ("mailer", "jobs", "hidden") if there else ("nothing",) * 3
    return [
        [wire.PUBLISH, 1, [[topic, b"x"], [topic, b"x", {"delay": 1000}]]],
        [wire.UNIT, 3, {"publish": [[topic, b"x"]]}],
        [wire.UNIT, 4, {"set": [[key, b"mine"]]}],
        [wire.ATTACH, 1, queue, {"credit": 10}],
        [wire.ATTACH, 2, None, {"topics": (topic,), "from": "earliest", "credit": 10}],
        [wire.ATTACH, 3, None, {"topics": (topic,), "live": "tap", "credit": 10}],
        [wire.ATTACH, 4, None, {"topics": ("#",), "from": "earliest", "credit": 10}],
        [wire.SETTLE, 1, "ack", [1], None, 900],
        [wire.STARTED, 1, [1]],
        [wire.EXTEND, 1, [1], 1000],
    ]


def arguments_of(there: bool) -> dict[str, Any]:
    queue, topic, key = ("mailer", "jobs", "hidden") if there else ("nothing",) * 3
    return {"name": queue, "kind": "queue", "topics": [topic], "from": "earliest"} | {"key": key, "id": "sched-1"}


async def natively(world: World, token: str, there: bool) -> list[Any]:
    """What is heard in answer to everything, each said on a connection of its own."""
    tries: list[tuple[list[Any], int | None]] = []
    for frame in frames_of(there):
        sequence = 1 if frame[0] in (wire.PUBLISH, wire.UNIT) else frame[1]
        tries.append(([[frame[0], sequence, *frame[2:]], [wire.GOODBYE]], None))
    for verb in native_verbs(world):
        arguments = arguments_of(there)
        if verb == "subscription.put":
            arguments = {name: arguments[name] for name in ("name", "kind", "topics")}
        tries.append(([[wire.REQUEST, 7, verb, arguments]], 7))
    heard = []
    for frames, until in tries:
        answers = await world.native([wire.HELLO, 1, {"token": token}], *frames, until=until)
        heard += [answer for answer in answers if answer[0] != wire.WELCOME]
    return heard


def native_verbs(world: World) -> list[str]:
    from broker.protocols.native.requests import Requests

    return list(Requests(world.daemon.hub, LOCAL)._verbs)


@pytest.mark.parametrize("grants", [(), NARROW])
async def test_who_may_not_does_nothing_and_learns_nothing_natively(world: World, grants: Any) -> None:
    token = await world.token("mallory", *grants)
    before = await world.state()
    there, elsewhere = [await natively(world, token, there) for there in (True, False)]
    assert await world.state() == before
    text = str(there)
    for name in ("mailer", "jobs", "hidden"):
        text = text.replace(name, "nothing")
    assert text == str(elsewhere)
    assert "body" not in text
    answered = [frame for frame in there if frame[0] in (wire.REPLY, wire.ERROR, wire.REFUSE, wire.DETACHED)]
    for frame in answered:
        if frame[0] == wire.REPLY:
            assert frame[2] in ([], {"cancelled": False}, [1]), frame
        else:
            assert "forbidden" in frame, frame
    assert not [frame for frame in there if frame[0] in (wire.DELIVER, wire.ATTACHED)]
    assert len(answered) >= len(native_verbs(world)) + 7


async def test_who_says_nothing_gets_nothing_natively(world: World) -> None:
    before = await world.state()
    for hello in ({}, {"publisher": "p"}, {"token": "pr_0_0"}, {"user": "ann", "password": "wrong"}, {"token": ""}):
        heard = await world.native([wire.HELLO, 1, hello])  # which the door closes by itself
        assert [frame[:3] for frame in heard] == [[wire.ERROR, None, "unauthenticated"]], hello
    for frame in frames_of(True):
        assert (await world.native(frame))[0][:3] == [wire.ERROR, None, "not_greeted"]
    for bad in ({"token": 7}, {"token": "a", "user": "b"}, {"user": "ann"}, {"password": b"x"}):
        assert (await world.native([wire.HELLO, 1, bad]))[0][2] == "bad_frame"
    assert await world.state() == before
    assert not [c for c in world.daemon._native.connections if c.session.greeted]


# Credentials and rights that end


class Talk:
    """A native connection that stays."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, *frames: Any) -> None:
        self._writer.write(b"".join(map(wire.encode, frames)))

    async def hear(self, kind: int) -> Any:
        """The next frame, which is of this kind."""
        async with asyncio.timeout(PATIENCE):
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            frame = msgpack.unpackb(await self._reader.readexactly(size), strict_map_key=False)
        assert frame[0] == kind, frame
        return frame

    async def closed(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read() == b""


async def talk(world: World, **hello: str) -> Talk:
    host, port = world.daemon.addresses["native"][0].rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    world.writers.append(writer)
    talk = Talk(reader, writer)
    talk.say([wire.HELLO, 1, hello])
    return talk


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Names and data of server-sent events."""
    name, data = "message", None
    async for line in answer.content:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            name = text[7:]
        elif text.startswith("data: "):
            data = json.loads(text[6:])
        elif not text and data is not None:
            yield name, data
            name, data = "message", None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.005)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


READER = (parse_grant("consume jobs"), parse_grant("consume subscription:mailer"), parse_grant("publish jobs"))


async def end_by_revoking(world: World, token: str) -> str:
    await world.daemon.directory.revoke(token.split("_")[1])
    return "revoked"


async def end_by_expiry(world: World, token: str) -> str:
    directory = world.daemon.directory
    directory._wall = lambda: 4e9
    directory.expire()
    return "expired"


async def end_by_removing(world: World, token: str) -> str:
    await world.daemon.directory.remove("ann")
    return "revoked"


@pytest.mark.parametrize("end", [end_by_revoking, end_by_expiry, end_by_removing])
async def test_a_token_that_ends_closes_its_connections_and_no_others(world: World, end: Any) -> None:
    await world.daemon.directory.add_grants("ann", READER)
    token = (await world.daemon.directory.create_token("ann", 60_000))[0]
    other = await world.token("bob", *READER)
    native, stays = await talk(world, token=token), await talk(world, token=other)
    for connection in (native, stays):
        await connection.hear(wire.WELCOME)
        connection.say([wire.ATTACH, 1, None, {"topics": ["jobs"], "credit": 10}])
        await connection.hear(wire.ATTACHED)
    url = f"{world.http}/v1/stream?topic=jobs"
    poll_url = f"{world.http}/v1/queues/mailer/receive?wait=30"
    await world.daemon.hub.engine.purge("mailer")
    async with (
        world.session.get(url, headers=bearer(token)) as stream,
        world.session.get(f"{url}&access_token={other}") as staying,
        world.session.ws_connect(f"{world.http}/v1/stream?access_token={token}") as socket,
    ):
        told, told_staying = events(stream), events(staying)
        assert (await anext(told))[0] == (await anext(told_staying))[0] == "start"
        assert (await socket.receive_json())["type"] == "welcome"
        poll = asyncio.create_task(world.session.post(poll_url, headers=bearer(token)))
        await until(lambda: len(world.daemon.hub._holds) == 5)
        why = await end(world, token)
        assert why in (await native.hear(wire.ERROR))[3]
        assert await native.closed()
        name, data = await anext(told)
        assert (name, data["code"]) == ("error", "unauthenticated")
        assert why in data["detail"]
        async with asyncio.timeout(PATIENCE):
            answer = await poll
            assert (answer.status, (await answer.json())["code"]) == (401, "unauthenticated")
            assert "unauthenticated" in (await socket.receive_str())
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        await world.daemon.hub.publish(LOCAL, [Outgoing("jobs", b"after")])
        assert (await stays.hear(wire.DELIVER))[3][0][4] == b"after"
        assert (await anext(told_staying))[1]["topic"] == "jobs"
    assert (await world.ask("GET", "/v1/topics", None, token))[0] == 401
    assert (await world.native([wire.HELLO, 1, {"token": token}]))[0][2] == "unauthenticated"


async def test_a_grant_that_goes_ends_readers_at_both_doors_and_the_connection_lives(world: World) -> None:
    directory = world.daemon.directory
    token = await world.token("ann", *READER)
    native = await talk(world, token=token)
    await native.hear(wire.WELCOME)
    native.say([wire.ATTACH, 1, "mailer", {"credit": 1}], [wire.ATTACH, 2, None, {"topics": ["jobs"], "credit": 10}])
    await native.hear(wire.ATTACHED)
    await native.hear(wire.DELIVER)
    await native.hear(wire.ATTACHED)
    async with world.session.get(f"{world.http}/v1/stream?topic=jobs", headers=bearer(token)) as stream:
        told = events(stream)
        assert (await anext(told))[0] == "start"
        await directory.remove_grant("ann", READER[0])
        assert (await native.hear(wire.DETACHED))[1:3] == [2, "forbidden"]
        name, data = await anext(told)
        assert (name, data["code"]) == ("error", "forbidden")
        await world.daemon.hub.publish(LOCAL, [Outgoing("jobs", b"after")])
        native.say([wire.PING, 1])
        await native.hear(wire.PONG)
        assert [event async for event in told] == []
    await directory.remove_grant("ann", READER[1])
    assert (await native.hear(wire.DETACHED))[1:3] == [1, "forbidden"]
    assert world.daemon.engine.subscription("mailer").leased == 0
    native.say([wire.PUBLISH, 1, [["jobs", b"x"]]])
    await native.hear(wire.CONFIRM)
    await directory.remove_grant("ann", READER[2])
    native.say([wire.PUBLISH, 2, [["jobs", b"x"]]])
    assert (await native.hear(wire.REFUSE))[3] == "forbidden"


async def test_a_poll_ends_when_its_grant_goes_and_others_go_on(world: World) -> None:
    token, other = await world.token("ann", *READER), await world.token("bob", *READER)
    await world.daemon.engine.purge("mailer")
    url = f"{world.http}/v1/queues/mailer/receive?wait=30"
    polls = [asyncio.create_task(world.session.post(url, headers=bearer(t))) for t in (token, other)]
    holds = world.daemon.hub._holds
    async with asyncio.timeout(PATIENCE):
        await until(lambda: len(holds) == 2)
        await world.daemon.directory.remove_grant("ann", READER[1])
        gone = await polls[0]
        assert (gone.status, (await gone.json())["code"]) == (403, "forbidden")
        await world.daemon.hub.publish(LOCAL, [Outgoing("jobs", b"for bob")])
        assert len((await (await polls[1]).json())["messages"]) == 1


async def test_a_right_that_goes_while_a_body_comes_is_gone(world: World) -> None:
    """An extend asks no commit, which would ask again."""
    grant = parse_grant("consume subscription:mailer")
    token = await world.token("worker", grant)
    received = json.loads((await world.ask("POST", "/v1/queues/mailer/receive", None, token))[1])
    body = json.dumps([{"receipt": received["messages"][0]["receipt"], "outcome": "extend", "duration": "1h"}])
    host, port = world.http.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    world.writers.append(writer)
    head = f"POST /v1/queues/mailer/settle HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body[:9]}".encode())
    await until(lambda: any(found.arriving and found._busy for found in world.daemon._http.connections))
    await world.daemon.directory.remove_grant("worker", grant)
    writer.write(body[9:].encode())
    answer = await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b'"forbidden"' in answer


async def test_a_password_opens_both_doors_until_it_is_changed(world: World) -> None:
    directory, passwords = world.daemon.directory, world.daemon._strict.passwords
    await directory.add_grants("ann", READER)
    await directory.set_password("ann", await passwords.hash("correct horse"))
    native = await talk(world, user="ann", password="correct horse", publisher="p")
    assert (await native.hear(wire.WELCOME))[2]["sequence"] == 0
    native.say([wire.PUBLISH, 1, [["jobs", b"x"]]])
    await native.hear(wire.CONFIRM)
    basic = {"Authorization": aiohttp.encode_basic_auth("ann", "correct horse")}
    async with world.session.get(f"{world.http}/v1/topics", headers=basic) as answer:
        assert [topic["name"] for topic in (await answer.json())["topics"]] == ["jobs"]
    await directory.set_password("ann", await passwords.hash("battery staple"))
    assert "password was changed" in (await native.hear(wire.ERROR))[3]
    assert await native.closed()
    async with world.session.get(f"{world.http}/v1/topics", headers=basic) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


async def test_a_publisher_id_is_its_principals_own(world: World) -> None:
    """Who knows somebody else's id learns nothing by it, and takes nothing over."""
    talks = [await talk(world, token=await world.token(name, *READER), publisher="p") for name in ("ann", "bob")]
    for each in talks:
        assert (await each.hear(wire.WELCOME))[2]["sequence"] == 0
    for each in talks:
        each.say([wire.PUBLISH, 1, [["jobs", b"x"]]])
        await each.hear(wire.CONFIRM)


async def test_requests_of_several_on_one_connection_are_each_their_own(world: World) -> None:
    """As behind a proxy that keeps connections."""
    ann, bob = await world.token("ann", *READER), await world.token("bob")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        for token, status in ((ann, 201), (bob, 403), (ann, 201), (None, 401)):
            headers = {} if token is None else bearer(token)
            url = f"{world.http}/v1/topics/jobs/messages"
            async with session.post(url, data=b"x", headers=headers) as answer:
                assert answer.status == status


async def test_access_token_counts_on_the_stream_alone_and_is_in_no_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    token = await world.token("ann", *READER)
    assert (await world.ask("GET", f"/v1/topics?access_token={token}", None, None))[0] == 401
    assert (await world.ask("GET", f"/v1/stream?topic=hidden&access_token={token}", None, None))[0] == 403
    assert (await world.ask("GET", f"/v1/stream?topic=jobs&access_token={token}x", None, None))[0] == 401
    text = str([vars(record) for record in caplog.records])
    assert "access_token" in text
    assert token.split("_")[2] not in text
