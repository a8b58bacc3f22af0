import io
import json

import pytest
from rich.console import Console

from tests.bench import report
from tests.bench.figures import Bound, Goal, Results
from tests.bench.plan import Table
from tests.bench.report import Told


@pytest.fixture
def told() -> Told:
    results = Results(failures=["postroom, run 2: the disk is full"])
    results.add("postroom", 1, {"rate": 123_456.7})
    goals = [Goal("× prototype", Bound.AT_LEAST, 0.65, 0.7), Goal("memory", Bound.AT_MOST, 250, None, "MB")]
    table = Table("Measured with care.", ["in flight", "postroom"], [["1,024", 123_456.7], ["1", None]], goals)
    return Told("window", table, results)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), ("1,024", "1,024"), (0.654, "0.65"), (12.34, "12.3"), (123_456.7, "123,457")]
)
def test_numbers_have_as_many_digits_as_mean_something(value: str | float | None, text: str) -> None:
    assert report.number(value) == text


def test_markdown_says_how_and_what(told: Told) -> None:
    assert report.markdown(told).splitlines() == [
        "### window",
        "",
        "Measured with care.",
        "",
        "| in flight | postroom |",
        "| --- | --: |",
        "| 1,024 | 123,457 |",
        "| 1 | – |",
        "",
        "| goal | asked | measured |  |",
        "| --- | --: | --: | --: |",
        "| × prototype | ≥ 0.65 | 0.70 | reached |",
        "| memory | ≤ 250 MB | – | not measured |",
        "",
        "Failed: postroom, run 2: the disk is full",
    ]


def test_json_has_every_run(told: Told) -> None:
    value = json.loads(report.as_json({"notes": []}, [told]))
    (scenario,) = value["scenarios"]
    assert scenario["table"] == [{"in flight": "1,024", "postroom": 123_456.7}, {"in flight": "1", "postroom": None}]
    assert scenario["runs"] == {"postroom": [{"rate": 123_456.7}]}
    assert [(goal["goal"], goal["met"]) for goal in scenario["goals"]] == [("× prototype", True), ("memory", None)]
    assert scenario["failures"] == ["postroom, run 2: the disk is full"]


def test_the_terminal_shows_the_same(told: Told) -> None:
    out = io.StringIO()
    report.show(Console(file=out, width=100), told)
    for text in ("window", "Measured with care.", "123,457", "reached", "failed: postroom, run 2: the disk is full"):
        assert text in out.getvalue()
