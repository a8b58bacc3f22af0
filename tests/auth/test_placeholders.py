"""`%c` and `%u` in grants: whoever chooses his name well gets no further than the level that it stands for."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.auth.grant import Verb, on_topic, parse_grant
from broker.auth.principal import BROKER, LOCAL, MAX_OWN_TOPICS, Principal, authorize
from broker.core.errors import BrokerError, Code
from broker.core.topic import check_filter

TEXT = st.text("ab$%cu/+#*.:\x00é ", min_size=0, max_size=6)
"""Of client identifiers, the nasty ones among them."""
LEVEL = st.sampled_from(["a", "%c", "%u", "+", "d-%c", "%u%c", "%%c", "$a", "%x", "b"])
WRITTEN = st.tuples(st.lists(LEVEL, min_size=1, max_size=4), st.booleans()).map(
    lambda drawn: "/".join([*drawn[0], *["#"] * drawn[1]])
)
ASKED = st.lists(st.sampled_from(["a", "b", "+", "#", "$a", "", "d-a", "%c"]) | TEXT, min_size=1, max_size=5).map(
    "/".join
)


def ann(*grants: str) -> Principal:
    return Principal("ann", tuple(map(parse_grant, grants)))


def may(who: Principal, topic: str, verb: Verb = Verb.PUBLISH) -> bool:
    return authorize(who, verb, on_topic(topic))


def as_wide(written: str, client: str, asked: str) -> bool:
    """The rule in other words: level for level, a placeholder is the one text that it stands for, and no wildcard."""
    if asked.startswith("$") and not written.startswith("$"):
        return False
    given = asked.split("/")
    levels = written.split("/")
    for i, level in enumerate(levels):
        if level == "#":
            return True
        if i == len(given) or given[i] == "#" or (i == 0 and given[0] == "#"):
            return False
        meant = level.replace("%c", "\0").replace("%u", "ann").replace("\0", client)
        if level != "+" and (meant != given[i] or given[i] in ("+", "#")):
            return False
    return len(levels) == len(given)


@given(WRITTEN, TEXT, ASKED)
@example("%c/#", "$dead", "$dead/jobs")
@example("a/%c/b", "+", "a/x/b")
@example("a/%c", "#", "a/x/y")
@example("a/%c", "x/y", "a/x/y")
@example("%c%u", "%u", "%uann")
@example("a/%c", "", "a/")
def test_no_name_makes_a_right_wider_than_its_level(written: str, client: str, asked: str) -> None:
    try:
        check_filter(asked)
    except BrokerError:
        return
    who = ann(f"publish {written}").as_client(client)
    if may(who, asked):
        assert as_wide(written, client, asked)


@given(WRITTEN, st.text("abc%u-é.", min_size=1, max_size=6))
def test_a_plain_name_gets_all_of_what_is_meant_for_it(written: str, client: str) -> None:
    own = written.replace("%c", "\0").replace("%u", "ann").replace("\0", client)
    assert may(ann(f"publish {written}").as_client(client), own)


@pytest.mark.parametrize("client", ["", "a/b", "+", "#", "a+", "a\x00", "$dead", "x" * 1024])
def test_names_that_never_match(client: str) -> None:
    who = ann("publish %c/#").as_client(client)
    assert not who.grants
    assert not may(who, f"{client}/up")


def test_who_asks_as_no_client_has_no_right_by_its_name() -> None:
    who = ann("publish dev/%c/up", "publish dev/%u/up")
    assert not may(who, "dev/%c/up")
    assert may(who, "dev/ann/up")


@pytest.mark.parametrize("text", ["consume key:%c/*", "manage key:app/%u", "consume subscription:%u"])
def test_other_kinds_of_resources_have_no_placeholders(text: str) -> None:
    with pytest.raises(BrokerError) as refusal:
        parse_grant(text)
    assert refusal.value.code is Code.BAD_OPTION


def test_a_client_is_one_object_as_long_as_somebody_holds_it_and_hears_of_changes() -> None:
    base = ann("publish dev/%c/up")
    one, other = base.as_client("one"), base.as_client("other")
    assert base.as_client("one") is one
    assert may(one, "dev/one/up")
    assert not may(one, "dev/other/up")
    base.regrant((parse_grant("publish log/%c"), parse_grant("consume dev/%c/#")))
    assert not may(one, "dev/one/up")
    assert may(other, "log/other")
    assert may(other, "dev/other/#", Verb.CONSUME)
    assert not may(other, "dev/one/#", Verb.CONSUME)
    del one
    assert list(base._clients or ()) == ["other"]


def test_what_is_remembered_is_shared_unless_it_depends_on_who_asks() -> None:
    base = ann("publish log/#")
    one, other = base.as_client("one"), base.as_client("other")
    one.remember("log/a")
    assert "log/a" in base.topics
    assert "log/a" in other.topics
    base.regrant((parse_grant("publish dev/%c/#"),))
    assert not one.topics
    assert not base.topics
    for i in range(3 * MAX_OWN_TOPICS):
        one.remember(f"dev/one/{i}")
    assert 0 < len(one.topics) <= MAX_OWN_TOPICS
    assert not other.topics
    base.regrant((parse_grant("publish log/#"),))
    assert one.topics is base.topics


def test_who_may_everything_is_the_same_for_all_clients() -> None:
    assert LOCAL.as_client("one") is LOCAL
    assert BROKER.as_client("one") is BROKER
