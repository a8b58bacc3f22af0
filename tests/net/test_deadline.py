"""Deadlines with a clock of the test's own."""

from collections.abc import Callable

import pytest

from broker.net.deadline import Deadlines


class Clock:
    """A loop reduced to time: `pass_` moves it and rings what is due."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ordered: list[tuple[float, Callable[[], object]]] = []
        self.orders = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> "Order":
        self.orders += 1
        self.ordered.append((when, callback))
        return Order(self, (when, callback))

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        for order in [o for o in self.ordered if o[0] <= self.now]:
            self.ordered.remove(order)
            order[1]()


class Order:
    def __init__(self, clock: Clock, order: tuple[float, Callable[[], object]]) -> None:
        self.clock, self.order = clock, order

    def cancel(self) -> None:
        self.clock.ordered.remove(self.order)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_who_is_late_is_told_and_who_is_not_is_not(clock: Clock) -> None:
    late: list[str] = []
    deadlines = Deadlines(clock, 10, late.append)
    deadlines.begin("a")
    clock.pass_(4)
    deadlines.begin("b")
    deadlines.begin("c")
    deadlines.end("b")
    clock.pass_(5.9)
    assert late == []
    clock.pass_(0.1)
    assert late == ["a"]
    clock.pass_(4)
    assert late == ["a", "c"]
    assert len(deadlines) == 0
    assert clock.ordered == []


def test_beginning_again_gives_the_whole_time_anew(clock: Clock) -> None:
    late: list[str] = []
    deadlines = Deadlines(clock, 10, late.append)
    deadlines.begin("a")
    clock.pass_(9)
    deadlines.begin("a")
    clock.pass_(9)
    assert late == []
    clock.pass_(1)
    assert late == ["a"]


def test_a_thousand_connections_have_one_timer(clock: Clock) -> None:
    deadlines: Deadlines[int] = Deadlines(clock, 10, lambda _: None)
    for i in range(1_000):
        deadlines.begin(i)
        deadlines.end(i)
    assert clock.orders == 1


def test_one_that_ends_another_while_late(clock: Clock) -> None:
    late: list[str] = []

    def expired(name: str) -> None:
        late.append(name)
        deadlines.end("b")
        deadlines.begin("c")

    deadlines: Deadlines[str] = Deadlines(clock, 10, expired)
    deadlines.begin("a")
    deadlines.begin("b")
    clock.pass_(10)
    assert late == ["a"]
    clock.pass_(10)
    assert late == ["a", "c"]


def test_close_forgets(clock: Clock) -> None:
    deadlines: Deadlines[str] = Deadlines(clock, 10, lambda name: pytest.fail(str(name)))
    deadlines.begin("a")
    deadlines.close()
    clock.pass_(20)
    assert clock.ordered == []
