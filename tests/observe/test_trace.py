"""W3C Trace Context, read strictly: examples of the standard; nothing a stranger sends gets through or hurts."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.observe.trace import MAX_STATE, made_traceparent, trace_context, trace_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("parent", [PARENT, PARENT[:-2] + "00", f"cc-{PARENT[3:]}", f"cc-{PARENT[3:]}-what-may-be"])
def test_parents(parent: str) -> None:
    assert trace_id(parent) == TRACE
    assert trace_context([parent]) == {"traceparent": parent}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT[:-1],
        PARENT + "0",
        PARENT + "-more",
        PARENT.upper(),
        " " + PARENT,
        PARENT + "\n",
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        PARENT.replace("-", "_"),
        f"cc-{PARENT[3:]}.more",
        f"cc-{PARENT[3:]}-{'x' * 1000}",
        f"cc-{PARENT[3:]}-\r\nX: y",
        "٠٠" + PARENT[2:],
    ],
)
def test_what_is_no_parent_goes_nowhere(parent: str) -> None:
    assert trace_id(parent) is None
    assert trace_context([parent], ["a=1"]) == {}


def test_two_parents_are_none() -> None:
    assert trace_context([PARENT, PARENT]) == {}
    assert trace_context([]) == {}


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1 , b=2,, "], "a=1,b=2"),
        (["tenant@system=x", "0a@b=c d"], "tenant@system=x,0a@b=c d"),
        ([""], None),
        (["a"], None),
        (["A=1"], None),
        (["a=1,a=2"], None),
        (["a="], None),
        (["a=b=c"], None),
        (["a=\x00"], None),
        (["a=1\r\nX: y"], None),
        ([",".join(f"k{i}=1" for i in range(33))], None),
        ([f"a={'x' * 256}"], f"a={'x' * 256}"),
        ([f"a={'x' * 257}"], None),
        (["a=" + "x" * MAX_STATE], None),
    ],
)
def test_states(fields: list[str], state: str | None) -> None:
    expected = {"traceparent": PARENT} | ({"tracestate": state} if state else {})
    assert trace_context([PARENT], fields) == expected


@given(st.lists(st.text(max_size=600), max_size=3), st.lists(st.text(max_size=600), max_size=3))
@example([PARENT], ["a=" + "b" * 100_000])
@example(["0" * 1_000_000], [])
def test_what_gets_through_is_fit_for_any_header(parents: list[str], states: list[str]) -> None:
    for value in trace_context(parents, states).values():
        assert value.isascii()
        assert value.isprintable()
        assert len(value) <= MAX_STATE


def test_a_made_one_is_one() -> None:
    digest = hashlib.sha256(b"file").hexdigest()
    assert trace_id(made_traceparent(digest)) == digest[:32]
