"""What holds for the whole suite: no hidden skips where they are forbidden, and property tests without a stopwatch."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

NO_SKIP = os.environ.get("POSTROOM_NO_SKIP") == "1"
"""Set where everything must run: a test or module that skips itself there has failed."""

pytest.register_assert_rewrite("tests.engine.promises", "tests.engine.world")

# The same examples in every run, lest a change be judged by luck; `make proof` draws others, and ten times as many.
settings.register_profile("same", deadline=None, database=None, derandomize=True)
settings.register_profile("drawn", deadline=None, database=None, max_examples=1_000)
settings.load_profile(os.environ.get("POSTROOM_EXAMPLES", "same"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but POSTROOM_NO_SKIP=1: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if NO_SKIP and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, but POSTROOM_NO_SKIP=1: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
