"""Subscription settings read from plain values, refused with the key's name, and written back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.duration import format_duration
from broker.core.errors import BrokerError, Code
from broker.core.position import EARLIEST, LATEST
from broker.core.retry import RetryPolicy
from broker.core.spec import check_name, parse_retry, parse_spec, revealed, shown_values, spec_values
from broker.core.subscription import Kind, Overflow, Spec

TOPICS = {"topics": ["a/#"]}
DURATIONS = st.integers(0, 10**9).map(format_duration)
RETRIES = st.fixed_dictionaries(
    {},
    optional={
        "initial": DURATIONS,
        "cap": DURATIONS,
        "factor": st.floats(1, 100),
        "jitter": st.floats(0, 1),
        "max_attempts": st.integers(1, 10**6),
        "schedule": st.lists(DURATIONS, max_size=4),
    },
)
QUEUES = st.fixed_dictionaries(
    {"topics": st.lists(st.sampled_from(["a", "b/+", "c/#"]), min_size=1, max_size=3)},
    optional={
        "kind": st.just("queue"),
        "lease": st.integers(100, 86_400_000).map(format_duration),
        "retry": RETRIES,
        "ordered": st.booleans(),
        "fair": st.booleans(),
        "single_active": st.booleans(),
        "max_messages": st.integers(1, 1 << 40),
        "max_bytes": st.integers(1, 1 << 40),
        "max_deliveries": st.integers(1, 100),
        "overflow": st.sampled_from(["refuse", "block", "drop_oldest"]),
        "webhook": st.just({"url": "https://example.com/hook"}),
    },
)


@given(QUEUES)
def test_a_queue_written_back_reads_the_same(options: dict[str, Any]) -> None:
    spec = parse_spec("q", options)
    assert parse_spec("q", spec_values(spec)) == spec


def test_a_stream_written_back_reads_the_same() -> None:
    spec = parse_spec("s", {"kind": "stream", "topics": ["a", "b/+"], "webhook": {"url": "http://127.0.0.1/"}})
    assert parse_spec("s", spec_values(spec)) == spec
    assert "lease" not in spec_values(spec)


def test_defaults() -> None:
    assert parse_spec("q", {"topics": ["a"]}) == Spec("q", Kind.QUEUE, ("a",))
    assert parse_spec("q", {"topics": ("a",), "from": None, "retry": None, "lease": None}).start == LATEST


def test_every_setting_is_read() -> None:
    spec = parse_spec(
        "mail.v2",
        {
            "topics": ["a", "b", "a"],
            "from": "earliest",
            "lease": "1m",
            "retry": {"schedule": ["5s", "1m"]},
            "ordered": True,
            "fair": None,
            "max_messages": 5,
            "overflow": "drop_oldest",
        },
    )
    assert spec.topics == ("a", "b")
    assert spec.start == EARLIEST
    assert spec.lease == 60_000
    assert spec.retry == RetryPolicy(schedule=(5_000, 60_000), max_attempts=3)
    assert (spec.ordered, spec.fair, spec.max_messages) == (True, False, 5)
    assert spec.overflow is Overflow.DROP_OLDEST


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"colour": 1}, "colour"),
        ({1: 2, "colour": 3}, "no option"),
        ({"kind": "topic"}, "kind"),
        ({"kind": ["queue"]}, "kind"),
        ({"topics": []}, "topics"),
        ({"topics": "a"}, "topics"),
        ({"topics": None}, "topics"),
        ({"topics": ["a"] * 101}, "topics"),
        ({"kind": "stream", "ordered": True}, "ordered"),
        ({"kind": "stream", "lease": "5s", "retry": {"cap": 1}}, "lease"),
        ({"webhook": "https://example.com"}, "webhook"),
        ({"webhook": {"url": 5}}, "webhook"),
        ({"lease": "10ms"}, "lease"),
        ({"lease": "25h"}, "lease"),
        ({"lease": "soon"}, "lease"),
        ({"overflow": "explode"}, "overflow"),
        ({"ordered": "yes"}, "ordered"),
        ({"single_active": 1}, "single_active"),
        ({"max_messages": 0}, "max_messages"),
        ({"max_bytes": "5"}, "max_bytes"),
        ({"max_deliveries": True}, "max_deliveries"),
        ({"max_messages": 1 << 63}, "max_messages"),
        ({"retry": "often"}, "retry"),
        ({"retry": {"times": 5}}, "retry"),
        ({"retry": {"initial": "x"}}, "retry.initial"),
        ({"retry": {"factor": 0.5}}, "retry.factor"),
        ({"retry": {"factor": float("nan")}}, "retry.factor"),
        ({"retry": {"jitter": 2}}, "retry.jitter"),
        ({"retry": {"jitter": True}}, "retry.jitter"),
        ({"retry": {"max_attempts": 0}}, "max_attempts"),
        ({"retry": {"schedule": ["5s", "x"]}}, "retry.schedule"),
        ({"retry": {"schedule": "5s"}}, "retry.schedule"),
        ({"retry": {"schedule": 5}}, "retry.schedule"),
        ({"retry": {"schedule": ["5s"] * 101}}, "retry.schedule"),
    ],
)
def test_a_bad_setting_is_refused_by_name(options: dict[Any, Any], named: str) -> None:
    with pytest.raises(BrokerError) as refusal:
        parse_spec("q", TOPICS | options)
    assert refusal.value.code is Code.BAD_OPTION
    assert named in refusal.value.detail


def test_a_bad_filter_and_a_bad_start_keep_their_codes() -> None:
    for filter_ in ("a#", 5):
        with pytest.raises(BrokerError) as refusal:
            parse_spec("q", {"topics": [filter_]})
        assert refusal.value.code is Code.BAD_FILTER
    with pytest.raises(BrokerError) as refusal:
        parse_spec("q", TOPICS | {"from": "yesterday"})
    assert refusal.value.code is Code.BAD_POSITION


@pytest.mark.parametrize("name", ["a", "orders.v2", "A-b_c", "9", "x" * 128])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "a b", "é", "a\n", "x" * 129, None, 5, "$dead"])
def test_bad_names(name: object) -> None:
    with pytest.raises(BrokerError) as refusal:
        check_name(name)
    assert refusal.value.code is Code.BAD_OPTION


def test_a_schedule_with_its_own_number_of_attempts_keeps_it() -> None:
    assert parse_retry({"schedule": [1, 2], "max_attempts": 9}).max_attempts == 9


def test_what_is_shown_holds_no_secret_and_is_the_same_when_sent_back() -> None:
    sink = {"url": "https://a.example/", "secret": ["one", "two"], "headers": {"Cookie": "three"}, "timeout": "1s"}
    spec = parse_spec("q", TOPICS | {"webhook": sink})
    shown = shown_values(spec)
    assert shown["webhook"] == {**sink, "secret": "***", "headers": {"Cookie": "***"}}
    assert revealed(parse_spec("q", shown), spec) == spec
    with pytest.raises(BrokerError, match=r"webhook\.secret"):
        revealed(parse_spec("q", shown), None)
    plain = parse_spec("q", TOPICS)
    assert revealed(plain, spec) == plain
