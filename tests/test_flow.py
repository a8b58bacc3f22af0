"""Rates hold in the long run whatever the pieces are; memory is shared by those who need it."""

import logging

import pytest

from broker.core.errors import BrokerError, Code
from broker.flow import MAX_BUCKETS, Flow
from broker.limits import Limits
from broker.observe.limited import QUIET, Limited

MIB = 1 << 20


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def flow_of(clock: Clock, **limits: int) -> Flow:
    return Flow(Limits(**limits), Limited(clock), clock)


def wait(flow: Flow, principal: str) -> float:
    """Seconds that this principal has to wait."""
    error = flow.debt(principal)
    return 0.0 if error is None else error.retry_after or 0.0


# Rates


def test_a_second_of_the_rate_may_come_at_once_and_then_the_rate_holds(clock: Clock) -> None:
    flow = flow_of(clock, publish_messages_per_second=100)
    flow.spend("p", 100, 0)
    assert wait(flow, "p") == 0
    taken = 100
    while clock.now < 110:
        flow.spend("p", 7, 0)
        taken += 7
        clock.now += wait(flow, "p")
    assert taken == pytest.approx(100 + 100 * 10, rel=0.02)


def test_a_large_piece_is_taken_whole_and_waited_for(clock: Clock) -> None:
    flow = flow_of(clock, publish_bytes_per_second=MIB)
    flow.spend("p", 1, 8 * MIB)
    assert wait(flow, "p") == pytest.approx(7)
    clock.now += 6.5
    assert wait(flow, "p") == pytest.approx(0.5)
    clock.now += 0.5
    assert wait(flow, "p") == 0


def test_the_error_names_the_limit_that_holds_longest(clock: Clock) -> None:
    flow = flow_of(clock, publish_messages_per_second=10, publish_bytes_per_second=1_000)
    flow.spend("p", 20, 5_000)
    with pytest.raises(BrokerError, match=r"p may publish 1000 bytes a second; raise limits.publish_bytes") as caught:
        flow.check("p", "c")
    assert caught.value.code is Code.RATE_LIMITED
    assert caught.value.retry_after == pytest.approx(4)


def test_one_principal_pays_for_all_its_connections_and_for_no_other(clock: Clock) -> None:
    flow = flow_of(clock, publish_messages_per_second=10)
    flow.spend("p", 30, 0)
    flow.check("q", "c2")
    flow.check(None, "the broker's own")
    with pytest.raises(BrokerError):
        flow.check("p", "c3")


def test_principals_that_are_idle_are_forgotten(clock: Clock) -> None:
    flow = flow_of(clock, publish_messages_per_second=10)
    for i in range(MAX_BUCKETS):
        flow.spend(f"p{i}", 1, 0)
    clock.now += 1
    flow.spend("one more", 50, 0)
    assert len(flow._buckets) == 1
    assert wait(flow, "one more") > 0


# Memory


def test_memory_that_is_short_slows_those_who_have_more_than_their_part(clock: Clock) -> None:
    flow = flow_of(clock, max_uncommitted=8 * MIB)
    flow.enter("flood", 1, 4 * MIB)
    flow.enter("flood", 2, 4 * MIB)
    flow.enter("modest", 3, 1_000)
    assert flow.crowded("flood", 1)
    assert not flow.crowded("modest", 3)
    assert not flow.crowded("newcomer", 4, MIB)
    assert flow.crowded("newcomer", 4, 9 * MIB)
    flow.leave("flood", 1, 4 * MIB)
    assert not flow.crowded("flood", 2)


def test_many_small_ones_do_not_pass_twice_the_limit(clock: Clock) -> None:
    flow = flow_of(clock, max_uncommitted=MIB)
    for i in range(3_000):
        flow.enter(f"p{i}", i, 1_000)
    with pytest.raises(BrokerError, match=r"raise limits.max_uncommitted") as caught:
        flow.check("p1", 1, 10)
    assert caught.value.code is Code.OVERLOADED


def test_what_was_answered_leaves_nothing_behind(clock: Clock) -> None:
    flow = flow_of(clock)
    for sender in range(10):
        flow.enter("p", sender, 5)
        flow.enter("p", sender, 7)
    for sender in range(10):
        flow.leave("p", sender, 7)
        flow.leave("p", sender, 5)
    assert (flow.uncommitted, dict(flow._senders)) == (0, {})


# What is told


def test_a_limit_is_told_once_when_it_begins_and_once_when_it_has_ended(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flow = flow_of(clock, publish_messages_per_second=1)
    flow.spend("p", 100, 0)
    for _ in range(50):
        flow.debt("p")
        clock.now += 1
        flow.limited.tick()
    (felt,) = flow.status()["in_force"]
    assert (felt["limit"], felt["who"], felt["times"]) == ("limits.publish_messages_per_second", "p", 50)
    clock.now += QUIET
    flow.limited.tick()
    assert flow.status()["in_force"] == []
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "a limit is reached",
        "a limit is no longer reached",
    ]
    assert flow.limited.times == {"publish_messages_per_second": 50}
