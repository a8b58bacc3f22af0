"""Connections on their way through the handshake: counted, timed, dismissed, and answered when they speak plainly."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from broker.auth.identity import Identity
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.limits import Limits
from broker.net.address import peer_of
from broker.net.admission import Admission
from broker.net.handshake import Arrival, Listener, TlsListener, accept
from broker.net.tls import Tls, TlsOptions, peer_names
from broker.observe.limited import Limited
from tests.authority import Authority

PATIENCE = 10.0


class Echo(asyncio.Protocol):
    """The door's protocol: sends back what it gets."""

    door = "echo"
    id = ""
    since = 0.0
    principal: Principal | None = None
    identity: Identity | None = None
    client = ""
    address, port = "", 0
    arriving = unsent = 0

    def __init__(self, world: "World") -> None:
        self.world = world

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.address, self.port = peer_of(transport)
        self.names = peer_names(transport)
        self.world.counted.append(len(self.world.admission))
        self.world.admission.admit(self)
        self.world.made.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.world.admission.leave(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def dismiss(self, error: BrokerError) -> None:
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()


class World:
    """A listener, who stands before it, and who came through."""

    def __init__(self, tls: Tls, limit: int) -> None:
        self.tls = tls
        self.limited = Limited(time.monotonic)
        self.admission = Admission(Limits(max_connections=limit), self.limited)
        self.made: list[Echo] = []
        self.counted: list[int] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.listener: Listener
        self.port = 0

    async def start(self) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.listener = await accept(
            sock, lambda: Echo(self), door="echo", admission=self.admission, tls=self.tls, plain=b"speak TLS"
        )

    async def connect(self, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = None if context is None else "localhost"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=name)
        self.writers.append(writer)
        return reader, writer

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  any condition
                await asyncio.sleep(0.002)


Open = Callable[..., Awaitable[World]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
async def opened(authority: Authority) -> AsyncIterator[Open]:
    worlds: list[World] = []

    async def make(limit: int = 10, **options: Any) -> World:
        pair = authority.issue("localhost")
        world = World(Tls(TlsOptions(certificate=pair.certificate, key=pair.key, **options)), limit)
        await world.start()
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.listener.close()
        for writer in world.writers:
            writer.transport.abort()
        await world.until(lambda: len(world.admission) == 0)  # noqa: B023  within this turn


async def said_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"hello")
    async with asyncio.timeout(PATIENCE):
        return await reader.readexactly(5)


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What still comes, to the end."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    except ConnectionResetError:
        return b""


async def test_the_protocol_speaks_over_tls_and_takes_the_place_of_the_arrival(
    opened: Open, authority: Authority
) -> None:
    world = await opened(limit=1)  # one place is enough for one connection, through its handshake too
    reader, writer = await world.connect(authority.trusted())
    assert await said_back(reader, writer) == b"hello"
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert world.counted == [0]
    assert world.made[0].address == "127.0.0.1"
    assert len(world.admission) == 1
    writer.close()
    await world.until(lambda: len(world.admission) == 0)


async def test_who_connects_and_says_nothing_is_counted_and_let_go_in_time(opened: Open, authority: Authority) -> None:
    world = await opened(limit=2, handshake_timeout=0.3)
    silent, _ = await world.connect(None)
    half, writer = await world.connect(None)
    writer.write(b"\x16\x03\x01\x02\x00")
    await world.until(lambda: len(world.admission) == 2)
    late, _ = await world.connect(None)
    assert await ends(late) == b""  # there is no place for a third
    assert world.limited.times == {"max_connections": 1}
    assert await ends(silent) == b""
    assert await ends(half) == b""
    assert world.tls.failures == {"timeout": 2}
    await world.until(lambda: len(world.admission) == 0)
    assert await said_back(*await world.connect(authority.trusted())) == b"hello"


async def test_a_deadline_holds_over_the_whole_handshake(opened: Open) -> None:
    world = await opened(handshake_timeout=0.3)
    reader, writer = await world.connect(None)
    ending = asyncio.ensure_future(ends(reader))
    for byte in b"\x16\x03\x01\x02\x00" + bytes(400):  # of 512, and longer than anybody's patience
        if ending.done():
            break
        writer.write(bytes((byte,)))
        await asyncio.sleep(0.05)
    assert await ending == b""
    assert world.tls.failures == {"timeout": 1}


async def test_who_speaks_plainly_is_told(opened: Open) -> None:
    world = await opened()
    reader, writer = await world.connect(None)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await ends(reader) == b"speak TLS"
    assert world.tls.failures == {"plain": 1}
    writer.close()


async def test_who_comes_and_goes_harms_nobody(opened: Open, authority: Authority) -> None:
    world = await opened()
    for sent in (b"", b"\x16", b"\x16\x03\x01\x00\x05hello", bytes(range(256))):
        _, writer = await world.connect(None)
        writer.write(sent)
        writer.close()
    await world.until(lambda: world.tls.failures.total() == 4)
    await world.until(lambda: len(world.admission) == 0)
    assert await said_back(*await world.connect(authority.trusted())) == b"hello"


async def test_one_in_its_handshake_can_be_dismissed(opened: Open) -> None:
    world = await opened()
    silent, _ = await world.connect(None)
    half, writer = await world.connect(None)
    writer.write(b"\x16\x03\x01\x02\x00")
    await world.until(lambda: len(world.admission) == 2)
    await asyncio.sleep(0.01)
    assert world.admission.dismiss(lambda c: c.door == "echo", BrokerError(Code.FORBIDDEN)) == 2
    assert await ends(silent) == b""
    assert await ends(half) == b""
    await world.until(lambda: len(world.admission) == 0)


async def test_one_that_is_dropped_before_its_handshake_has_begun_leaves_too(opened: Open) -> None:
    world = await opened()
    listener = cast(TlsListener, world.listener)
    with socket.create_connection(("127.0.0.1", world.port)) as client:
        client.sendall(b"\x16")
        listener._accept()
        (arrival,) = world.admission
        listener._look(cast(Arrival, arrival))
        arrival.abort()  # in the same turn of the loop, as its deadline may
        await world.until(lambda: len(world.admission) == 0)


async def test_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_stay(
    opened: Open, authority: Authority
) -> None:
    world = await opened()
    old = await world.connect(authority.trusted())
    assert await said_back(*old) == b"hello"
    authority.issue("localhost", "renewed.example.com")
    world.tls.take_up(world.tls.options)
    new = await world.connect(authority.trusted())
    names = new[1].get_extra_info("peercert")["subjectAltName"]
    assert ("DNS", "renewed.example.com") in names
    assert await said_back(*old) == b"hello"


async def test_the_names_of_a_client_certificate_reach_the_door(opened: Open, authority: Authority) -> None:
    world = await opened(client_certificates="optional", client_ca=authority.path)
    shown = authority.issue("worker.example.com", "spiffe://example.com/worker", file="client")
    await said_back(*await world.connect(authority.trusted(shown)))
    await said_back(*await world.connect(authority.trusted()))
    assert [echo.names for echo in world.made] == [
        ("DNS:worker.example.com", "URI:spiffe://example.com/worker"),
        (),
    ]


async def test_certificates_of_strangers_and_missing_ones_are_refused(
    opened: Open, authority: Authority, tmp_path: Path
) -> None:
    world = await opened(client_certificates="required", client_ca=authority.path)
    stranger = Authority(tmp_path / "stranger").issue("worker.example.com", file="client")
    for shown in (None, stranger):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await said_back(*await world.connect(authority.trusted(shown)))
    await world.until(lambda: world.tls.failures == {"certificate": 2})
    assert world.made == []
    # The authority that a reload takes away counts no more.
    good = authority.issue("worker.example.com", file="good")
    assert await said_back(*await world.connect(authority.trusted(good))) == b"hello"
    other = Authority(tmp_path / "other")
    world.tls.take_up(world.tls.options.model_copy(update={"client_ca": other.path}))
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await said_back(*await world.connect(authority.trusted(good)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("minimum", ["1.2", "1.3"])
async def test_old_versions_are_refused(opened: Open, authority: Authority, minimum: str) -> None:
    world = await opened(minimum_version=minimum)
    versions = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
    taken = []
    for version in versions:
        context = authority.trusted()
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        try:
            await said_back(*await world.connect(context))
        except (ssl.SSLError, ConnectionError):
            continue
        taken.append(version.name)
    assert taken == (["TLSv1_2", "TLSv1_3"] if minimum == "1.2" else ["TLSv1_3"])


async def test_a_closed_listener_lets_go_of_arrivals_and_keeps_connections(opened: Open, authority: Authority) -> None:
    world = await opened()
    kept = await world.connect(authority.trusted())
    await said_back(*kept)
    silent, _ = await world.connect(None)
    await world.until(lambda: len(world.admission) == 2)
    world.listener.close()
    world.listener.close()
    assert await ends(silent) == b""
    assert await said_back(*kept) == b"hello"
    with pytest.raises(OSError):
        await world.connect(None)
