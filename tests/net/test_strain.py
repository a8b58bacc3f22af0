"""Who makes us keep too much is closed, the slowest first; others are let be."""

import time

from broker.core.errors import Code
from broker.limits import Limits
from broker.net.admission import Admission
from broker.net.strain import Strain
from broker.observe.limited import Limited
from tests.net.test_admission import Client

MIB = 1 << 20
LIMITS = Limits(max_arriving=4 * MIB, max_unsent=4 * MIB)


def strained(*clients: Client) -> tuple[Strain, Limited]:
    limited = Limited(time.monotonic)
    admission = Admission(LIMITS, limited)
    for client in clients:
        admission.admit(client)
    return Strain(admission, LIMITS, limited), limited


def test_what_fits_is_let_be() -> None:
    clients = [Client(arriving=MIB, unsent=MIB) for _ in range(4)]
    strain, limited = strained(*clients)
    strain.look()
    assert not any(client.told or client.aborted for client in clients)
    assert not limited.status()


def test_what_is_too_much_is_noticed_before_it_is_much_more() -> None:
    """Between two looks by the clock; at whatever it stood at the last."""
    for begun in (0, 3 * MIB, 4 * MIB):
        clients = [Client(arriving=begun), *(Client() for _ in range(8))]
        strain, _ = strained(*clients)
        strain.look()
        total, piece = begun, 64 << 10
        while not any(client.told for client in clients):
            for client in clients[1:]:
                client.arriving += piece
                total += piece
                strain._admission.received(piece)
        assert total <= 4 * MIB * 17 // 16 + 9 * piece


def test_those_that_take_longest_to_send_go_first_and_are_told() -> None:
    slow, fast = [Client(arriving=MIB) for _ in range(3)], Client()
    strain, limited = strained(fast, *slow)
    strain.look()
    fast.arriving = 2 * MIB
    slow[2].arriving = MIB + 1
    strain.look()
    (error,) = slow[2].told  # as long as the others, and the largest of them
    assert error.code is Code.OVERLOADED
    assert "raise limits.max_arriving" in error.detail
    assert not any(client.told for client in (fast, slow[0], slow[1]))
    assert limited.times == {"max_arriving": 1}


def test_one_that_sends_many_is_not_taken_for_slow() -> None:
    busy, slow = Client(arriving=3 * MIB), Client(arriving=MIB)
    strain, _ = strained(busy, slow)
    strain.look()
    busy.arriving = 2 * MIB  # of another request
    slow.arriving = 3 * MIB
    strain.look()
    assert slow.told
    assert not busy.told


def test_those_that_read_least_are_cut_off() -> None:
    clients = [Client(unsent=size * MIB) for size in (1, 5, 1, 3)]
    strain, limited = strained(*clients)
    strain.look()
    assert [client.aborted for client in clients] == [False, True, False, True]
    assert limited.times == {"max_unsent": 2}
