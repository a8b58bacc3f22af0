"""Who goes next when not all fit into one transaction."""

from collections.abc import Hashable

from broker.engine.base import Unit
from broker.engine.sqlite.turns import Turns

MIB = 1 << 20


def unit(principal: str, sender: Hashable, size: int = MIB) -> Unit:
    return Unit(principal=principal, sender=sender, size=size)


def taken(turns: Turns, pending: list[Unit], limit: int) -> list[Unit]:
    """One transaction's worth, which leaves `pending`."""
    units = turns.take(pending, limit)
    for one in units:
        pending.remove(one)
    return units


def test_a_hundred_connections_are_one_principal() -> None:
    pending = [unit("flood", connection) for connection in range(100) for _ in range(4)]
    modest = unit("modest", "m", 100)
    pending.append(modest)
    assert modest in taken(Turns(), pending, 8 * MIB)


def test_within_a_principal_each_connection_has_its_turn_over_several_transactions() -> None:
    turns, pending = Turns(), [unit("local", connection) for connection in range(16) for _ in range(4)]
    served = [one.sender for _ in range(4) for one in taken(turns, pending, 4 * MIB + 4096)]
    assert sorted(served, key=str) == sorted(range(16), key=str)


def test_who_comes_anew_is_neither_behind_nor_ahead_for_long() -> None:
    turns, pending = Turns(), [unit("local", "old") for _ in range(100)]
    for _ in range(5):
        taken(turns, pending, 8 * MIB)
    pending += [unit("local", "new") for _ in range(100)]
    served = [one.sender for _ in range(4) for one in taken(turns, pending, 8 * MIB)]
    assert abs(served.count("new") - served.count("old")) <= 1


def test_turns_are_counted_in_bytes() -> None:
    turns, pending = Turns(), [unit("a", "a", MIB) for _ in range(50)] + [unit("b", "b", MIB // 8) for _ in range(400)]
    sizes = {"a": 0, "b": 0}
    for _ in range(4):
        for one in taken(turns, pending, 8 * MIB):
            sizes[str(one.principal)] += one.size
    assert abs(sizes["a"] - sizes["b"]) <= 2 * MIB


def test_the_units_of_one_sender_keep_their_order() -> None:
    pending = [unit("p", i % 3, size=(i * 7919) % MIB) for i in range(60)]
    turns, order = Turns(), list(pending)
    served: list[Unit] = []
    while pending:
        served += taken(turns, pending, 3 * MIB)
    for sender in range(3):
        assert [one for one in served if one.sender == sender] == [one for one in order if one.sender == sender]


def test_one_larger_than_a_transaction_goes_alone() -> None:
    pending = [unit("p", "s", 20 * MIB), unit("q", "t")]
    assert len(Turns().take(pending, 8 * MIB)) == 1
