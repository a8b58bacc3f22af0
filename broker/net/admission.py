"""The open connections of all doors, how many there may be, and how many the operating system lets us have. Floor 3."""

import asyncio
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol

from broker.auth.attempts import source_of
from broker.auth.identity import Identity
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.limits import Limits
from broker.observe.limited import Limited

log = logging.getLogger(__name__)
GRAINS = 16
"""A budget of memory may be passed by one part in so many before that is noticed."""
RESERVED_FILES = 256
"""Descriptors that are not connections: database, its readers, drop folders, webhook connections, logs."""


class OpenConnection(Protocol):
    """A connection as the register knows it.

    `address` and `port` are the client's (`unix` and 0 on a unix socket). `principal` is None until it is known who
    speaks; `identity` says how that was proven. `client` is the name that the client gave itself.
    `id` and `since` (unix seconds) are set when it is admitted. `arriving`: bytes kept of what has not come to its end;
    `unsent`: bytes that the client has not read.
    """

    id: str
    since: float

    @property
    def door(self) -> str:
        """`native`, `http`, …"""

    @property
    def address(self) -> str:
        """See the class."""

    @property
    def port(self) -> int:
        """See the class."""

    @property
    def principal(self) -> Principal | None:
        """See the class."""

    @property
    def identity(self) -> Identity | None:
        """See the class."""

    @property
    def client(self) -> str:
        """See the class."""

    @property
    def arriving(self) -> int:
        """See the class."""

    @property
    def unsent(self) -> int:
        """See the class."""

    def dismiss(self, error: BrokerError) -> None:
        """Tell the client why, as far as its protocol can, and close."""

    def abort(self) -> None:
        """Close at once; what is unsent is dropped."""


class Arrivals:
    """How many came within this second, by who they are. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = 0
        self._counts: Counter[str] = Counter()

    def now(self) -> Counter[str]:
        """The counts of this second, to be looked at and added to."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._counts.clear()
        return self._counts


class Admission:
    """Holds connections up to `room` (the operating system may have less of it than the limits allow). A door asks
    `admit` when one is made, says `identify` when it knows who speaks, and calls `leave` when it is lost."""

    def __init__(
        self,
        limits: Limits,
        limited: Limited,
        room: int | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._limited = limited
        self.room = limits.max_connections if room is None else room
        self._wall = wall
        self.on_much: Callable[[], object] = int
        """Called whenever so much came or went that memory may be short; it calls `looked`."""
        self._may_come, self._may_go = limits.max_arriving, limits.max_unsent
        self._numbers = count(1)
        self._connections: dict[str, OpenConnection] = {}
        self._names: dict[str, str] = {}  # id of a connection -> name of the principal it counts for
        self._by_address: Counter[str] = Counter()
        self._by_principal: Counter[str] = Counter()
        self._new_by_address, self._new_by_principal = Arrivals(clock), Arrivals(clock)

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[OpenConnection]:
        """All of now, oldest first; they may go while one looks."""
        return iter(list(self._connections.values()))

    def admit(self, connection: OpenConnection) -> None:
        """Take a place. Raises OVERLOADED or RATE_LIMITED when there is none; then `leave` is not called."""
        if len(self._connections) >= self.room:
            detail = f"{self.room} connections are open; close some or raise limits.max_connections"
            self._limited.hit("max_connections", "", detail)
            raise BrokerError(Code.OVERLOADED, detail)
        source = source_of(connection.address)
        self._check("address", source, self._by_address, self._limits.max_connections_per_address)
        new = self._new_by_address.now()
        self._check_new("address", source, new, self._limits.new_connections_per_address)
        if connection.principal is not None:
            self._check_principal(connection.principal)
        new[source] += 1
        connection.id = f"{connection.door}-{next(self._numbers)}"
        connection.since = self._wall()
        self._connections[connection.id] = connection
        self._by_address[source] += 1
        self.identify(connection)

    def _check_principal(self, principal: Principal) -> None:
        name, limits = principal.name, self._limits
        self._check("principal", name, self._by_principal, limits.max_connections_per_principal)
        self._check_new("principal", name, self._new_by_principal.now(), limits.new_connections_per_principal)

    def _check(self, what: str, who: str, counts: Counter[str], limit: int) -> None:
        if counts[who] >= limit:
            name = f"max_connections_per_{what}"
            detail = f"{who} has {limit} connections open; close some or raise limits.{name}"
            self._limited.hit(name, who, detail)
            raise BrokerError(Code.RATE_LIMITED, detail)

    def _check_new(self, what: str, who: str, counts: Counter[str], limit: int) -> None:
        if counts[who] >= limit:
            name = f"new_connections_per_{what}"
            detail = f"{who} has opened {limit} connections within a second; keep them open or raise limits.{name}"
            self._limited.hit(name, who, detail)
            raise BrokerError(Code.RATE_LIMITED, detail, retry_after=1.0)

    def identify(self, connection: OpenConnection) -> None:
        """Its principal has become known, or is another one now. Raises RATE_LIMITED when that one has connections
        enough; then the door closes this one."""
        before = self._names.get(connection.id)
        if connection.principal is not None and connection.principal.name == before:
            return
        if connection.principal is not None:
            self._check_principal(connection.principal)
        if before is not None:
            del self._names[connection.id]
            _less(self._by_principal, before)
        if connection.principal is not None:
            name = self._names[connection.id] = connection.principal.name
            self._by_principal[name] += 1
            self._new_by_principal.now()[name] += 1

    def leave(self, connection: OpenConnection) -> None:
        """Give the place back."""
        del self._connections[connection.id]
        _less(self._by_address, source_of(connection.address))
        name = self._names.pop(connection.id, None)
        if name is not None:
            _less(self._by_principal, name)

    def received(self, count: int) -> None:
        """So many bytes of a connection were read and are dealt with; it may be closed by this."""
        self._may_come -= count
        if self._may_come < 0:
            self.on_much()

    def sent(self, count: int) -> None:
        """So many bytes were written to a connection. None is closed at once: an engine may be in the midst of it."""
        self._may_go -= count
        if self._may_go < 0:
            self._may_go = self._limits.max_unsent // GRAINS
            asyncio.get_running_loop().call_soon(self.on_much)

    def looked(self, arriving: int, unsent: int) -> None:
        """So many bytes of all connections have not come to their end, or are unread, now: before the rest of a budget
        has come or gone they cannot be too many."""
        limits = self._limits
        self._may_come = max(limits.max_arriving - arriving, limits.max_arriving // GRAINS)
        self._may_go = max(limits.max_unsent - unsent, limits.max_unsent // GRAINS)

    def find(self, connection_id: str) -> OpenConnection | None:
        """The one with this id, if it is open."""
        return self._connections.get(connection_id)

    def dismiss(self, chosen: Callable[[OpenConnection], bool], error: BrokerError) -> int:
        """Dismiss those that `chosen` says; returns how many. One that cannot be told why saves none of the others."""
        found = [connection for connection in self if chosen(connection)]
        for connection in found:
            try:
                connection.dismiss(error)
            except Exception:
                log.exception("a connection could not be told why it ends", extra={"connection": connection.id})
                connection.abort()
        return len(found)


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


def raise_file_limit(connections: int) -> int:
    """Ask the system for descriptors for that many connections; returns for how many there are enough."""
    wanted = connections + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError):  # a sandbox may forbid it; then what there is has to do
            pass
    return connections if soft == resource.RLIM_INFINITY else max(0, min(connections, soft - RESERVED_FILES))
