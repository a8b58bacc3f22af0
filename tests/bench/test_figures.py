import pytest

from tests.bench.figures import Bound, Goal, Results, median, percentile


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([3.0], 3.0), ([9.0, 1.0, 5.0], 5.0), ([4.0, 1.0, 3.0, 2.0], 2.5)]
)
def test_the_median_is_the_middle_and_one_outlier_moves_it_little(values: list[float], expected: float | None) -> None:
    assert median(values) == expected


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentiles_are_values_that_occurred(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_ratio_is_taken_within_each_run_so_that_a_slow_hour_cancels_out() -> None:
    results = Results()
    for run, (ours, theirs) in {1: (60.0, 100.0), 2: (6.0, 10.0), 3: (70.0, 100.0)}.items():
        results.add("ours", run, {"rate": ours})
        results.add("theirs", run, {"rate": theirs})
    assert results.ratio("ours", "theirs", "rate") == 0.6
    assert results.median("ours", "rate") == 60.0


def test_a_run_that_failed_on_one_side_has_no_ratio() -> None:
    results = Results()
    results.add("ours", 1, {"rate": 1.0})
    results.add("ours", 2, {"rate": 3.0})
    results.add("theirs", 2, {"rate": 2.0})
    assert results.ratio("ours", "theirs", "rate") == 1.5
    assert results.ratio("ours", "nobody", "rate") is None
    assert results.median("nobody", "rate") is None


def test_values_come_in_the_order_of_the_runs() -> None:
    results = Results()
    results.add("ours", 2, {"rate": 2.0})
    results.add("ours", 1, {"rate": 1.0})
    assert results.all("ours", "rate") == [1.0, 2.0]


@pytest.mark.parametrize(
    ("bound", "value", "met", "verdict"),
    [
        (Bound.AT_LEAST, 0.65, True, "reached"),
        (Bound.AT_LEAST, 0.649, False, "MISSED"),
        (Bound.AT_MOST, 0.65, True, "reached"),
        (Bound.AT_MOST, 0.651, False, "MISSED"),
        (Bound.AT_LEAST, None, None, "not measured"),
    ],
)
def test_the_verdict(bound: Bound, value: float | None, met: bool | None, verdict: str) -> None:
    goal = Goal("it", bound, 0.65, value)
    assert (goal.met, goal.verdict) == (met, verdict)


def test_an_aim_that_is_not_reached_is_no_miss() -> None:
    assert Goal("it", Bound.AT_LEAST, 1.0, 0.9, aim=True).verdict == "aimed at, not reached"
    assert Goal("it", Bound.AT_LEAST, 1.0, 1.1, aim=True).verdict == "reached"
