"""The retry policy decides; bounds hold whatever chance says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.retry import RetryPolicy

CHANCES = st.floats(0, 1, exclude_max=True)
POLICIES = st.builds(
    RetryPolicy,
    initial=st.integers(0, 10**7),
    factor=st.floats(1, 100),
    cap=st.integers(0, 10**9),
    jitter=st.floats(0, 1),
    max_attempts=st.integers(1, 1_000),
    schedule=st.lists(st.integers(0, 10**9), max_size=4).map(tuple),
)


@pytest.mark.parametrize(("attempt", "delay"), [(1, 1_000), (2, 2_000), (3, 4_000), (10, 512_000), (11, 600_000)])
def test_the_default_doubles_up_to_its_cap(attempt: int, delay: int) -> None:
    assert RetryPolicy().delay(attempt, 0.5) == delay


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 800), (0.5, 1_000), (0.75, 1_100), (0.999, 1_199)])
def test_jitter_spreads_both_ways(chance: float, delay: int) -> None:
    assert RetryPolicy().delay(1, chance) == delay


def test_a_schedule_is_followed_and_its_last_delay_repeats() -> None:
    policy = RetryPolicy(schedule=(5, 60, 300), jitter=0, max_attempts=5)
    assert [policy.delay(n, 0.3) for n in range(1, 6)] == [5, 60, 300, 300, None]


def test_giving_up_after_the_last_attempt() -> None:
    assert RetryPolicy(max_attempts=1).delay(1, 0) is None
    assert RetryPolicy(max_attempts=2).delay(1, 0) is not None
    assert RetryPolicy(max_attempts=2).delay(2, 0) is None
    assert RetryPolicy(max_attempts=2).delay(99, 0) is None


@given(POLICIES, st.integers(1, 2_000), CHANCES)
def test_a_delay_stays_within_cap_and_jitter(policy: RetryPolicy, attempts: int, chance: float) -> None:
    delay = policy.delay(attempts, chance)
    if attempts >= policy.max_attempts:
        assert delay is None
        return
    assert delay is not None
    highest = max(policy.schedule) if policy.schedule else policy.cap
    assert 0 <= delay <= highest * (1 + policy.jitter) + 1


@given(POLICIES, st.integers(1, 999))
def test_without_jitter_a_later_failure_never_waits_less(policy: RetryPolicy, attempts: int) -> None:
    if policy.schedule:
        return
    here, later = policy.delay(attempts, 0.5), policy.delay(attempts + 1, 0.5)
    assert later is None or (here is not None and here <= later)
