"""A door on a real engine, on a free port, with a client that speaks to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from broker.engine.sqlite.engine import SqliteEngine
from broker.engine.sqlite.options import SqliteOptions
from broker.hub import Hub
from broker.limits import Limits
from broker.protocols.http.options import HttpOptions
from broker.protocols.http.server import HttpServer

PATIENCE = 20.0
"""Seconds after which a thing that should have happened has not; only a failing test waits so long."""


@dataclass
class Answer:
    """A response, read to its end."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem document."""
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.json["status"] == self.status
        return str(self.json["code"])


@dataclass
class Event:
    """One server-sent event."""

    name: str
    id: str
    data: Any


@dataclass
class Door:
    """The daemon's HTTP side; everything below it is real."""

    folder: Path
    options: dict[str, Any]
    limits: Limits
    engine: SqliteEngine = field(init=False)
    hub: Hub = field(init=False)
    server: HttpServer = field(init=False)
    session: aiohttp.ClientSession = field(init=False)
    address: str = ""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def start(self) -> None:
        self.engine = SqliteEngine(self.folder, SqliteOptions(disk_free_limit=0, ballast=0))
        await self.engine.start()
        self.hub = Hub(self.engine, self.limits)
        self.server = HttpServer(self.hub, HttpOptions(port=0, **self.options))
        (self.address,) = await self.server.start()
        self.session = aiohttp.ClientSession(
            f"http://{self.address}", timeout=aiohttp.ClientTimeout(PATIENCE), skip_auto_headers=["Content-Type"]
        )

    async def stop(self) -> None:
        await self.session.close()
        for writer in self.writers:
            if not writer.transport.is_closing():
                writer.transport.abort()
        self.writers.clear()
        await self.server.stop(0.2)
        await self.engine.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def __call__(self, method: str, path: str, data: Any = None, **headers: str) -> Answer:
        """Ask. `data`: bytes or text as they are, anything else as JSON; headers with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None and not isinstance(data, (bytes, str)):
            data = json.dumps(data).encode()
        url = URL(f"http://{self.address}{path}", encoded=True)
        async with self.session.request(method, url, data=data, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def publish(self, topic: str, data: Any, **headers: str) -> Any:
        answer = await self("POST", f"/v1/topics/{topic}/messages", data, **headers)
        assert answer.status == 201, answer
        return answer.json

    async def queue(self, name: str, topics: list[str], **options: Any) -> None:
        answer = await self("PUT", f"/v1/subscriptions/{name}", {"topics": topics, **options})
        assert answer.status == 201, answer

    async def receive(self, name: str, count: int = 1, wait: float = 0) -> list[Any]:
        answer = await self("POST", f"/v1/queues/{name}/receive?max={count}&wait={wait}")
        assert answer.status == 200, answer
        messages: list[Any] = answer.json["messages"]
        return messages

    async def settle(self, name: str, *items: Any) -> list[Any]:
        answer = await self("POST", f"/v1/queues/{name}/settle", list(items))
        assert answer.status == 200, answer
        results: list[Any] = answer.json["results"]
        return results

    async def info(self, name: str) -> Any:
        return (await self("GET", f"/v1/subscriptions/{name}")).json

    async def connect(self, limit: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare socket; `limit` of what is searched for a separator."""
        host, port = self.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
        self.writers.append(writer)
        return reader, writer

    async def bare(self, request: bytes) -> bytes:
        """Send bytes, return all that comes until the other side closes."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), PATIENCE)
        finally:
            writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that needs no more than a few turns of the loop or a disk write."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  the conditions are of many objects, none of which tells
            await asyncio.sleep(0.005)


async def next_event(content: aiohttp.StreamReader) -> Event:
    """Read one event; comments are passed over."""
    name, event_id, data = "message", "", []
    async with asyncio.timeout(PATIENCE):
        while line := await content.readline():
            text = line.decode().rstrip("\n")
            label, _, value = text.partition(": ")
            if label == "data":
                data.append(value)
            elif label == "id":
                event_id = value
            elif label == "event":
                name = value
            elif not text and data:
                return Event(name, event_id, json.loads("\n".join(data)))
    raise AssertionError("the stream ended")


DoorFactory = Callable[..., Awaitable[Door]]


@pytest.fixture
async def open_door(tmp_path: Path) -> AsyncIterator[DoorFactory]:
    """Makes doors with options of one's own."""
    doors: list[Door] = []

    async def make(limits: Limits | None = None, **options: Any) -> Door:
        door = Door(tmp_path / str(len(doors)), options, limits or Limits())
        await door.start()
        doors.append(door)
        return door

    yield make
    for door in doors:
        await door.stop()


@pytest.fixture
async def door(open_door: DoorFactory) -> Door:
    return await open_door()
