import pytest

from tests.bench.plan import COUNTS, SLOWEST, WINDOWS, Plan


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("quick", [True, False])
def test_every_load_fills_its_window_more_than_once(window: int, share: float, quick: bool) -> None:
    load = Plan(quick=quick).load(window, share)
    assert load.window == window
    assert load.count >= 2 * window
    assert load.count <= COUNTS[window]


@pytest.mark.parametrize("delay", [0.001, 0.005])
@pytest.mark.parametrize("window", WINDOWS)
def test_injected_delays_take_a_few_seconds_at_most(window: int, delay: float) -> None:
    load = Plan().delayed(window, delay)
    assert load.count / window * delay <= SLOWEST
    assert load.count >= 2 * window


def test_quick_is_short_and_says_one_run() -> None:
    assert Plan(quick=True).count(1_000_000) == 50_000
    assert Plan(quick=True).count(1) == 100
    assert Plan(runs=1).medians == "One run."
    assert Plan(runs=5).medians == "Medians of 5 alternating runs."
