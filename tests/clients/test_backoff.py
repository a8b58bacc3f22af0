import pytest
from postroom_client.backoff import Backoff


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 0.75)])
def test_delays_double_up_to_the_cap(chance: float, share: float) -> None:
    backoff = Backoff(initial=1, cap=5, chance=lambda: chance)
    assert [backoff.delay(n) for n in (1, 2, 3, 4, 10_000)] == [1 * share, 2 * share, 4 * share, 5 * share, 5 * share]
