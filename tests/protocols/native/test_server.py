"""The sockets of the native door: deadlines of greetings, heartbeats, stop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from broker.auth.identity import LOCALLY
from broker.core.errors import BrokerError, Code
from broker.hub import Hub
from broker.limits import Limits
from broker.protocols.native import wire
from broker.protocols.native.options import NativeOptions
from broker.protocols.native.server import NativeServer
from tests.engine.world import World, open_world
from tests.protocols.native.client import make

PATIENCE = 10.0
"""Seconds after which what should have come has not; only a failing test waits so long."""


class Peer:
    """A client on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def address(self) -> tuple[str, int]:
        """The door's."""
        host, port = self._writer.get_extra_info("peername")
        return host, port

    def say(self, *frames: Any) -> None:
        self._writer.write(b"".join(map(wire.encode, frames)))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def sent(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._writer.drain()

    async def hear(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            return msgpack.unpackb(await self._reader.readexactly(size), strict_map_key=False)

    async def end(self) -> bytes:
        """What comes before the connection ends."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()

    def close(self) -> None:
        self._writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the server's loop to notice a socket."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.005)


@asynccontextmanager
async def door(world: World, **options: Any) -> AsyncIterator[tuple[NativeServer, Peer]]:
    """A server on a free port and a client of it."""
    server = NativeServer(Hub(world.engine, Limits(), world.clock.wall), NativeOptions.model_validate(options))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        await server.start([listening])
        peer = Peer(*await asyncio.open_connection(*listening.getsockname()))
        try:
            yield server, peer
        finally:
            peer.close()
            await server.stop()


async def test_a_publisher_that_greeted_and_idles_is_let_be(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world) as (server, peer):
        peer.say([wire.HELLO, 1, {"publisher": "p"}])
        assert (await peer.hear())[0] == wire.WELCOME
        assert len(server.hellos) == 0


async def test_who_does_not_greet_is_told_and_closed(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world, hello_timeout="100ms") as (_, peer):
        assert (await peer.hear())[:3] == [wire.ERROR, None, "not_greeted"]
        assert await peer.end() == b""


async def test_who_is_silent_is_asked_and_then_closed(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world) as (server, peer):
        peer.say([wire.HELLO, 1, {}])
        assert (await peer.hear())[0] == wire.WELCOME
        for _ in range(2):
            server._heartbeat()
        assert await peer.hear() == [wire.PING, None]
        assert server.connections
        server._heartbeat()
        assert await peer.end() == b""


async def test_whom_we_do_not_read_is_not_taken_for_silent(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world) as (server, peer):
        peer.say([wire.HELLO, 1, {}])
        assert (await peer.hear())[0] == wire.WELCOME
        (connection,) = server.connections
        connection.hold(reading=False)
        for _ in range(5):
            server._heartbeat()
        assert [await peer.hear() for _ in range(5)] == [[wire.PING, None]] * 5  # it hears that we live
        connection.hold(reading=True)
        peer.say([wire.PING, 1])
        assert await peer.hear() == [wire.PONG, 1]


async def test_who_was_let_go_and_does_not_read_that_is_closed(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world) as (server, peer):
        peer.say([wire.HELLO, 1, {}])
        assert (await peer.hear())[0] == wire.WELCOME
        (connection,) = server.connections
        connection.write(bytes(15 << 20))  # more than sockets hold
        connection.hold(reading=False)
        connection.dismiss(BrokerError(Code.DISMISSED))
        for _ in range(3):
            server._heartbeat()
        await until(lambda: not server.connections)


async def test_a_second_connection_of_a_publisher_takes_over(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world) as (_, first):
        first.say([wire.HELLO, 1, {"publisher": "p"}])
        assert (await first.hear())[0] == wire.WELCOME
        first.say([wire.PUBLISH, 1, [["a", b"1"]]])
        assert (await first.hear())[:2] == [wire.CONFIRM, 1]
        second = Peer(*await asyncio.open_connection(*first.address))
        second.say([wire.HELLO, 1, {"publisher": "p"}])
        assert (await first.hear())[:3] == [wire.ERROR, None, "conflict"]
        assert await first.end() == b""
        assert (await second.hear())[2]["sequence"] == 1
        second.say([wire.PUBLISH, 2, [["a", b"2"]]])
        assert (await second.hear())[:2] == [wire.CONFIRM, 2]
        second.close()


async def test_a_dismissed_connection_is_told_why_and_costs_no_delivery(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world) as (server, peer):
        await world.subscribe("q", "jobs")
        await world.publish("jobs", "1")
        peer.say([wire.HELLO, 1, {"client": "billing"}], [wire.ATTACH, 1, "q", {"credit": 1}])
        while (frame := await peer.hear())[0] != wire.DELIVER:
            pass
        (known,) = server.admission
        assert (known.door, known.address, known.client) == ("native", "127.0.0.1", "billing")
        assert known.identity is LOCALLY
        peer.say([wire.STARTED, 1, [frame[3][0][0]]], [wire.PING, 1])
        assert await peer.hear() == [wire.PONG, 1]
        assert server.admission.dismiss(lambda c: c.id == known.id, BrokerError(Code.FORBIDDEN, "revoked")) == 1
        assert await peer.hear() == [wire.ERROR, None, "forbidden", "Not allowed. revoked"]
        assert await peer.end() == b""
        peer.close()
        await until(lambda: not len(server.admission))
        (row,) = await (worker := world.attach("q")).take(1)
        assert worker.attempts_of(row[0]) == (0, 0)


async def test_who_has_not_greeted_is_nobody_yet(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world) as (server, peer):
        peer.say([wire.HELLO, 1, {}])
        await peer.hear()
        second = Peer(*await asyncio.open_connection(*peer.address))
        await until(lambda: len(server.admission) == 2)
        assert [connection.identity for connection in server.admission] == [LOCALLY, None]
        second.close()


async def test_stop_closes_everybody_and_costs_no_delivery(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        await world.subscribe("q", "jobs")
        await world.publish("jobs", "1")
        async with door(world) as (server, peer):
            peer.say([wire.HELLO, 1, {}], [wire.ATTACH, 1, "q", {"credit": 1}])
            while (frame := await peer.hear())[0] != wire.DELIVER:
                pass
            peer.say([wire.STARTED, 1, [frame[3][0][0]]], [wire.PING, 1])
            assert await peer.hear() == [wire.PONG, 1]
            await server.stop()
            assert await peer.end() == b""
        worker = world.attach("q")
        (row,) = await worker.take(1)
        assert worker.attempts_of(row[0]) == (0, 0)


async def test_a_line_of_the_access_log_per_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "broker.access")
    async with open_world(tmp_path / "data", make) as world, door(world, hello_timeout="100ms") as (server, peer):
        peer.say([wire.HELLO, 1, {"client": "mailer"}])
        await peer.hear()
        peer.close()
        silent = Peer(*await asyncio.open_connection(*peer.address))
        await silent.hear()
        await silent.end()
        silent.close()
        await until(lambda: not server.connections)
    good, bad = (record.__dict__ for record in caplog.records if record.name == "broker.access")
    assert (good["levelname"], good["msg"], good["client"], good["principal"]) == (
        "INFO",
        "connection",
        "mailer",
        "local",
    )
    assert (bad["levelname"], bad["code"], bad["error"]) == ("WARNING", "not_greeted", "no HELLO in time")
    assert bad["address"].startswith("127.0.0.1:")


async def test_goodbye_waits_for_the_requests_before_it(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world, door(world) as (_, peer):
        put = [wire.REQUEST, 1, "subscription.put", {"name": "q", "kind": "queue", "topics": ["a"]}]
        peer.say([wire.HELLO, 1, {}], put, [wire.GOODBYE])
        assert (await peer.hear())[0] == wire.WELCOME
        assert await peer.hear() == [wire.REPLY, 1, {"created": True}]
        assert await peer.end() == b""


async def test_a_client_that_sends_much_behind_its_fault_can_read_what_it_was(tmp_path: Path) -> None:
    """A socket that is closed over unread bytes is reset, which breaks off the client's sending."""
    async with open_world(tmp_path / "data", make) as world, door(world) as (server, peer):
        peer.say([wire.HELLO, 1, {}])
        await peer.hear()
        peer.send((1 << 31).to_bytes(4, "big"))
        for _ in range(200):
            peer.send(bytes(64 << 10))
            await peer.sent()
        assert (await peer.hear())[2] == Code.FRAME_TOO_LARGE.value
        assert await peer.end() == b""
        peer.close()
        await until(lambda: not server.connections)
