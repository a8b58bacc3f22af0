"""The access log: which lines there are, how many, and what is never in them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from broker.observe.access import (
    MAX_PATH,
    Bounded,
    access,
    access_wanted,
    configure_access_log,
    shown_path,
    shown_query,
)
from broker.observe.log import LogOptions, configure_logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    stream = io.StringIO()
    configure_logging(LogOptions(level="error", format="json"), stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    logging.getLogger("broker.access").filters.clear()
    logging.getLogger("broker.access").setLevel(logging.NOTSET)


def written(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


@pytest.mark.parametrize(("wanted", "seen"), [("off", []), ("errors", [500]), ("all", [200, 500])])
def test_which_lines_there_are_whatever_the_level_of_the_log(lines: io.StringIO, wanted: Any, seen: list[int]) -> None:
    configure_access_log(wanted)
    for status in (200, 500):
        failed = status >= 400
        assert access_wanted(failed=failed) is (status in seen)
        access("request", failed=failed, status=status, code=None, query="")
    assert [line["status"] for line in written(lines)] == seen
    assert all("code" not in line and "query" not in line for line in written(lines))


def test_secrets_of_a_query_are_hidden_and_strange_signs_escaped() -> None:
    query = [("access_token", "pr_1_secret"), ("topic", "a/+ #\n"), ("\x00", "é"), ("TOKEN", "x"), ("limit", "5")]
    assert shown_query(query) == "access_token=***&topic=a/%2B%20%23%0A&%00=%C3%A9&TOKEN=***&limit=5"
    assert shown_path("/v1/topics/a%0d/\x1b[31m\udcff").startswith("/v1/topics/a%0d/%1B")


def test_what_is_long_is_cut() -> None:
    long = "/" + "x" * 10_000
    assert shown_path(long) == long[:MAX_PATH] + "… (10001 characters)"
    assert len(shown_query([("a", "b" * 10_000)])) < MAX_PATH + 30


def test_a_flood_is_bounded_and_counted() -> None:
    now = 0.0
    bounded = Bounded(2, lambda: now)
    records = [logging.makeLogRecord({}) for _ in range(6)]
    assert [bounded.filter(record) for record in records[:5]] == [True, True, False, False, False]
    now = 1.0
    assert bounded.filter(records[5])
    assert records[5].__dict__["left_out"] == 3
