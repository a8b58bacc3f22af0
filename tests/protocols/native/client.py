"""A client of a native session without sockets, on a real engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from broker.auth.identity import LOCALLY, Credentials, Identity
from broker.core.retention import Policies
from broker.engine.sqlite.engine import SqliteEngine
from broker.engine.sqlite.options import SqliteOptions
from broker.hub import Hub
from broker.limits import Limits
from broker.protocols.native import wire
from broker.protocols.native.session import Session
from broker.protocols.native.wire import encode
from tests.engine.world import Clock, World


def make(folder: Path, clock: Clock, policies: Policies) -> SqliteEngine:
    return SqliteEngine(
        folder,
        SqliteOptions(disk_free_limit=0, ballast=0),
        policies,
        wall=clock.wall,
        monotonic=clock.monotonic,
        chance=clock.chance,
        ticking=False,
    )


class Wire:
    """The client's end: what the session wrote, as frames; requests are noted, not run."""

    def __init__(self, world: World, hub: Hub | None = None) -> None:
        self.data = bytearray()
        self.calls: list[Callable[[], object]] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.reading = True
        self._now = world.clock.monotonic
        hub = hub or Hub(world.engine, Limits(), world.clock.wall, world.clock.monotonic)
        self.session = Session(hub, self, 30_000)

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None: ...

    def hold(self, *, reading: bool) -> None:
        self.reading = reading

    def identify(self, credentials: Credentials | None) -> Identity | None:
        return LOCALLY

    def greeted(self, identity: Identity) -> None: ...

    def take_over(self, publisher: str) -> None: ...

    def request(self, number: int, verb: str, arguments: Any) -> None: ...

    def after_requests(self, call: Callable[[], object]) -> None:
        call()

    def soon(self, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def say(self, *frames: Any) -> None:
        if not self.session.closed:
            self.session.receive(b"".join(map(encode, frames)))
        calls, self.calls = self.calls, []
        for call in calls:
            call()

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self.timers.append((self._now() + seconds, call))

    def ring(self) -> None:
        """Do what is due by the world's clock."""
        while due := [timer for timer in self.timers if timer[0] <= self._now()]:
            self.timers = [timer for timer in self.timers if timer not in due]
            for _, call in due:
                call()

    @property
    def heard(self) -> list[Any]:
        frames: list[Any] = []
        at = 0
        while at < len(self.data):
            end = at + 4 + int.from_bytes(self.data[at : at + 4], "big")
            frames.append(msgpack.unpackb(self.data[at + 4 : end], strict_map_key=False))
            at = end
        return frames


async def all_is_well(world: World) -> None:
    """The engine commits, and a connection beside is served."""
    await world.advance(1)
    assert world.engine.stats().state == "running"
    neighbour = Wire(world)
    neighbour.say([wire.HELLO, 1, {}], [wire.PUBLISH, 1, [["other", b"m"]]])
    await world.quiet()
    assert [frame[0] for frame in neighbour.heard] == [wire.WELCOME, wire.CONFIRM]


async def greeted(world: World) -> Wire:
    """A connection with two messages of the queue `q` in hand, offsets 1 and 2."""
    await world.subscribe("q", "jobs")
    await world.publish("jobs", "1", "2")
    client = Wire(world)
    client.say([wire.HELLO, 1, {"client": "x"}], [wire.ATTACH, 1, "q", {"credit": 10}])
    await world.quiet()
    assert [frame[0] for frame in client.heard] == [wire.WELCOME, wire.ATTACHED, wire.DELIVER]
    return client
