"""Connections are counted over all doors."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from broker.auth.identity import Identity
from broker.auth.principal import Principal
from broker.core.errors import BrokerError, Code
from broker.limits import Limits
from broker.net.admission import RESERVED_FILES, Admission, raise_file_limit
from broker.observe.limited import Limited


@dataclass
class Client:
    """A connection of no door."""

    address: str = "127.0.0.1"
    principal: Principal | None = None
    identity: Identity | None = None
    id: str = ""
    since: float = 0.0
    door: str = "test"
    port: int = 0
    client: str = ""
    arriving: int = 0
    unsent: int = 0
    aborted: bool = False
    told: list[BrokerError] = field(default_factory=list)

    def dismiss(self, error: BrokerError) -> None:
        self.told.append(error)

    def abort(self) -> None:
        self.aborted = True


def admission_of(
    wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic, **limits: int
) -> Admission:
    return Admission(Limits(**limits), Limited(time.monotonic), wall=wall, clock=clock)


def test_a_place_given_back_is_free_again() -> None:
    admission = admission_of(max_connections=2)
    clients = [Client() for _ in range(3)]
    admission.admit(clients[0])
    admission.admit(clients[1])
    with pytest.raises(BrokerError, match=r"raise limits\.max_connections") as caught:
        admission.admit(clients[2])
    assert caught.value.code is Code.OVERLOADED
    admission.leave(clients[0])
    admission.admit(clients[2])
    assert len(admission) == 2


def test_one_address_cannot_take_all() -> None:
    admission = admission_of(max_connections_per_address=2)
    clients = [Client("10.0.0.1") for _ in range(3)]
    admission.admit(clients[0])
    admission.admit(clients[1])
    with pytest.raises(BrokerError, match=r"10\.0\.0\.1 has 2 .* raise limits\.max_connections_per_address") as caught:
        admission.admit(clients[2])
    assert caught.value.code is Code.RATE_LIMITED
    admission.admit(Client("10.0.0.2"))
    admission.leave(clients[0])
    admission.admit(clients[2])
    assert len(admission) == 3


def test_one_client_of_ipv6_cannot_take_all_from_many_addresses() -> None:
    admission = admission_of(max_connections_per_address=2)
    clients = [Client(f"2001:db8::{i}") for i in (1, 2, 3)]
    admission.admit(clients[0])
    admission.admit(clients[1])
    with pytest.raises(BrokerError, match=r"2001:db8:: has 2 "):
        admission.admit(clients[2])
    admission.admit(Client("2001:db8:1::1"))
    admission.leave(clients[0])
    admission.admit(clients[2])
    with pytest.raises(BrokerError, match=r"2001:db8:: has 2 "):
        admission.admit(Client("2001:db8::9"))


def test_one_principal_cannot_take_all() -> None:
    admission = admission_of(max_connections_per_principal=2)
    ann = Principal("ann")
    clients = [Client(f"10.0.0.{i}") for i in range(3)]
    for client in clients:
        admission.admit(client)
        client.principal = ann
    admission.identify(clients[0])
    admission.identify(clients[0])
    admission.identify(clients[1])
    with pytest.raises(BrokerError, match=r"ann has 2 .* raise limits\.max_connections_per_principal"):
        admission.identify(clients[2])
    clients[2].principal = Principal("bob")
    admission.identify(clients[2])
    with pytest.raises(BrokerError):
        admission.admit(Client("10.0.0.9", principal=ann))
    for client in clients:
        admission.leave(client)
    assert not admission._by_principal


def test_connections_are_listed_and_found() -> None:
    times = iter((5.0, 6.0))
    admission = admission_of(lambda: next(times))
    first, second = Client(), Client()
    admission.admit(first)
    admission.admit(second)
    assert list(admission) == [first, second]
    assert (first.since, second.since) == (5.0, 6.0)
    assert first.id != second.id
    assert admission.find(second.id) is second
    admission.leave(second)
    assert admission.find(second.id) is None


def test_who_becomes_another_principal_counts_for_that_one() -> None:
    admission = admission_of(max_connections_per_principal=1)
    ann, bob = Principal("ann"), Principal("bob")
    here, there = Client("10.0.0.1", principal=ann), Client("10.0.0.2")
    admission.admit(here)
    admission.admit(there)
    there.principal = ann
    with pytest.raises(BrokerError, match="ann has 1 "):
        admission.identify(there)
    here.principal = bob
    admission.identify(here)
    admission.identify(there)
    with pytest.raises(BrokerError, match="bob has 1 "):
        admission.admit(Client("10.0.0.3", principal=bob))
    admission.leave(here)
    admission.leave(there)
    assert not admission._by_address
    assert not admission._by_principal


def test_those_chosen_are_dismissed_even_if_they_leave_at_once() -> None:
    admission = admission_of()
    error = BrokerError(Code.UNAUTHENTICATED, "the token was revoked")

    class Leaver(Client):
        def dismiss(self, error: BrokerError) -> None:
            super().dismiss(error)
            admission.leave(self)

    one, other = (Identity(Principal("ann"), f"token {number}") for number in range(2))
    clients = [Leaver(identity=one), Leaver(identity=other), Leaver(identity=one)]
    for client in clients:
        admission.admit(client)
    assert admission.dismiss(lambda connection: connection.identity is one, error) == 2
    assert [client.told for client in clients] == [[error], [], [error]]
    assert list(admission) == [clients[1]]


def test_the_file_limit_is_raised_as_far_as_the_system_lets_us() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = 300
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
        assert raise_file_limit(10) == 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft
        hard = 10**9 if before[1] == resource.RLIM_INFINITY else before[1]
        wanted = min(hard, 1_000)
        assert raise_file_limit(wanted - RESERVED_FILES) == wanted - RESERVED_FILES
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_one_that_cannot_be_told_why_it_ends_saves_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Client):
        def dismiss(self, error: BrokerError) -> None:
            raise RuntimeError("its socket is gone")

    admission = admission_of()
    clients = [Client(), Stuck(), Client()]
    for client in clients:
        admission.admit(client)
    assert admission.dismiss(lambda _: True, BrokerError(Code.DISMISSED)) == 3
    assert [(len(client.told), client.aborted) for client in clients] == [(1, False), (0, True), (1, False)]
    assert "could not be told why it ends" in caplog.text


def test_an_address_and_a_principal_open_so_many_within_a_second() -> None:
    now = [100.2]
    admission = admission_of(
        clock=lambda: now[0], new_connections_per_address=3, new_connections_per_principal=2, max_connections=10
    )

    def come(address: str, principal: Principal | None = None) -> Client:
        client = Client(address, principal)
        admission.admit(client)
        return client

    ann = Principal("ann")
    for _ in range(2):
        admission.leave(come("10.0.0.1", ann))
    with pytest.raises(BrokerError, match=r"ann has opened 2 .* raise limits\.new_connections_per_principal") as caught:
        come("10.0.0.2", ann)
    assert (caught.value.code, caught.value.retry_after) == (Code.RATE_LIMITED, 1.0)
    come("10.0.0.1")
    with pytest.raises(BrokerError, match=r"10\.0\.0\.1 has opened 3 .* raise limits\.new_connections_per_address"):
        come("10.0.0.1")
    come("10.0.0.3")
    assert len(admission) == 2
    now[0] = 101.0
    come("10.0.0.1", ann)
