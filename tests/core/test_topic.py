"""Names, filters and the trie, held to MQTT 5 §4.7 and to one another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.core.topic import (
    MAX_LEVELS,
    MAX_TOPIC_BYTES,
    Trie,
    check_filter,
    check_topic,
    covers,
    intersection,
    matches,
)

LEVEL = st.sampled_from(["a", "b", "c", "", "$x", "é"])
NAMES = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)
_HEAD = st.lists(st.one_of(LEVEL, st.just("+")), max_size=4)
FILTERS = (
    st.tuples(_HEAD, st.sampled_from(["", "#"])).map(lambda t: "/".join(t[0] + ([t[1]] if t[1] else []))).filter(bool)
)


@pytest.mark.parametrize("name", ["a", "a/b", "/", "a//b", "$dead/q", "orders/é", "a b", "a" * MAX_TOPIC_BYTES])
def test_good_names_pass_unchanged(name: str) -> None:
    assert check_topic(name) == name
    assert check_filter(name) == name


@pytest.mark.parametrize(
    "name",
    ["", None, 1, b"a", "a/+", "#", "a#b", "a\0b", "a\nb", "a\x7fb", "a\x85b", "\ud800", "x" * (MAX_TOPIC_BYTES + 1)],
)
def test_bad_names_are_refused(name: object) -> None:
    with pytest.raises(BrokerError) as refusal:
        check_topic(name)
    assert refusal.value.code is Code.BAD_TOPIC
    assert refusal.value.detail


@pytest.mark.parametrize("filter_", ["#", "+", "a/+", "+/+", "a/#", "+/b/#", "$dead/#", "/", "/+"])
def test_good_filters_pass_unchanged(filter_: str) -> None:
    assert check_filter(filter_) == filter_


@pytest.mark.parametrize(
    "filter_",
    ["", None, 7, "a#", "#/a", "a/#/b", "a+", "a/+b", "a/b#", "\0", "\udfff", "é" * MAX_TOPIC_BYTES, "##", "++"],
)
def test_bad_filters_are_refused(filter_: object) -> None:
    with pytest.raises(BrokerError) as refusal:
        check_filter(filter_)
    assert refusal.value.code is Code.BAD_FILTER
    assert refusal.value.detail


def test_the_number_of_levels_is_bounded() -> None:
    deepest = "/".join("a" * MAX_LEVELS)
    assert check_topic(deepest) == deepest
    with pytest.raises(BrokerError, match="levels"):
        check_topic(deepest + "/a")


@pytest.mark.parametrize(
    ("filter_", "name", "expected"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("#", "sport", True),
        ("#", "/", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/monitor", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/monitor", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("a/#", "a/$b", True),
        ("a/b", "a", False),
        ("a", "A", False),
    ],
)
def test_matching_as_mqtt_says(filter_: str, name: str, expected: bool) -> None:
    assert matches(filter_, name) is expected
    trie: Trie[int] = Trie()
    trie.add(filter_, 1)
    assert list(trie.match(name)) == [1] * expected


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("a/#", "a/b", "a/b"),
        ("a/#", "a", "a"),
        ("a/#", "+/b/#", "a/b/#"),
        ("a/+", "+/b", "a/b"),
        ("#", "#", "#"),
        ("#", "$dead/q", None),
        ("+/q", "$dead/q", None),
        ("$dead/#", "$dead/+", "$dead/+"),
        ("a/b", "a/c", None),
        ("a/b", "a", None),
        ("a/+", "a", None),
        ("/#", "+", None),
    ],
)
def test_what_two_filters_have_in_common(one: str, other: str, both: str | None) -> None:
    assert intersection(one, other) == intersection(other, one) == both


@given(FILTERS, FILTERS, NAMES)
def test_the_intersection_matches_what_both_match(one: str, other: str, name: str) -> None:
    both = intersection(one, other)
    assert (both is not None and matches(both, name)) == (matches(one, name) and matches(other, name))
    assert both is None or check_filter(both) == both


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("#", "#", True),
        ("#", "a/+/#", True),
        ("+/#", "#", True),
        ("#", "$dead/q", False),
        ("+/q", "$dead/q", False),
        ("$dead/#", "$dead/q", True),
        ("$dead/q", "#", False),
        ("a/#", "a", True),
        ("a/#", "a/+", True),
        ("a/+", "a/#", False),
        ("a/+/#", "a/#", False),
        ("a/+", "a", False),
        ("a", "a/b", False),
        ("a/b", "a/+", False),
        ("+", "#", False),
    ],
)
def test_which_filter_covers_which(outer: str, inner: str, expected: bool) -> None:
    assert covers(outer, inner) is expected


@given(FILTERS, FILTERS)
def test_a_filter_covers_another_when_it_matches_all_that_the_other_matches(outer: str, inner: str) -> None:
    """The names to try: a level that no filter names for each wildcard, and `#` drawn out beyond the other's length."""
    *head, last = inner.replace("+", "new").split("/")
    tails = [[last]] if last != "#" else [["new"] * n for n in range(0 if head else 1, 7)]
    names = ["/".join(head + tail) for tail in tails]
    assert all(matches(inner, name) for name in names)
    assert covers(outer, inner) is all(matches(outer, name) for name in names)


@given(FILTERS, NAMES)
def test_covering_a_name_is_matching_it(filter_: str, name: str) -> None:
    assert covers(filter_, name) is matches(filter_, name)


@given(st.lists(FILTERS, max_size=12), NAMES)
def test_the_trie_finds_what_single_matching_finds(filters: list[str], name: str) -> None:
    trie: Trie[int] = Trie()
    for i, filter_ in enumerate(filters):
        trie.add(filter_, i)
    assert sorted(trie.match(name)) == [i for i, f in enumerate(filters) if matches(f, name)]


@given(st.lists(st.tuples(FILTERS, st.integers(0, 3)), max_size=12), st.data())
def test_removing_leaves_exactly_the_rest(pairs: list[tuple[str, int]], data: st.DataObject) -> None:
    trie: Trie[int] = Trie()
    for pair in pairs:
        trie.add(*pair)
    left = list(pairs)
    for pair in data.draw(st.permutations(pairs)):
        trie.remove(*pair)
        left.remove(pair)
        name = data.draw(NAMES)
        assert sorted(trie.match(name)) == sorted(value for f, value in left if matches(f, name))
    assert not trie._root.children


def test_removing_what_is_not_there_is_a_key_error() -> None:
    trie: Trie[int] = Trie()
    trie.add("a/b", 1)
    for absent in [("a/b", 2), ("a/c", 1), ("a", 1)]:
        with pytest.raises(KeyError):
            trie.remove(*absent)
    assert list(trie.match("a/b")) == [1]
