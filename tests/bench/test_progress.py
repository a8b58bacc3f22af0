from collections.abc import Iterator

import pytest

from tests.bench.progress import Progress, duration, time_left


def test_nothing_is_known_before_the_first_measurement() -> None:
    assert time_left({}, ["a", "b"]) is None


def test_what_was_measured_before_takes_as_long_again_and_the_rest_as_long_as_the_average() -> None:
    assert time_left({"a": [2.0, 4.0], "b": [12.0]}, ["a", "b", "new"]) == 3.0 + 12.0 + 6.0


def test_nothing_is_left_at_the_end() -> None:
    assert time_left({"a": [2.0]}, []) == 0.0


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99.0, "99 s"), (120.0, "2 min"), (3_600.0, "60 min")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_it_tells_which_of_how_many_and_the_time_left() -> None:
    def clock() -> Iterator[float]:
        yield from (0.0, 10.0, 10.0, 12.0)

    times = clock()
    lines: list[str] = []
    progress = Progress(["a", "b", "a"], lines.append, lambda: next(times))
    progress.begin("first")
    progress.end("done")
    progress.begin("second")
    progress.end("failed: why")
    assert lines == [
        "[1 of 3] first",
        "    done",
        "[2 of 3, about 20 s left] second",
        "    failed: why",
    ]
