"""Which topic here is which topic there."""

import pytest

from broker.connectors.mqtt_bridge import mapping
from broker.connectors.mqtt_bridge.mapping import Mapping
from broker.connectors.mqtt_bridge.options import BridgedTopics


def entry(filter_: str, direction: str, local: str = "", remote: str = "", qos: int = 1) -> BridgedTopics:
    given = {"filter": filter_, "direction": direction, "local_prefix": local, "remote_prefix": remote, "qos": qos}
    return BridgedTopics.model_validate(given)


def test_one_prefix_is_exchanged_for_the_other() -> None:
    found = Mapping([entry("a/#", "both", "here/", "there/")])
    assert found.out("here/a/b") == ("there/a/b", 1)
    assert found.into("there/a/b") == ("here/a/b", 1)
    assert found.out("there/a/b") is None
    assert found.into("here/a/b") is None


def test_a_direction_holds() -> None:
    found = Mapping([entry("a/#", "out"), entry("b/#", "in")])
    assert (found.out("a/x"), found.out("b/x")) == (("a/x", 1), None)
    assert (found.into("a/x"), found.into("b/x")) == (None, ("b/x", 1))


def test_the_first_entry_that_matches_decides() -> None:
    found = Mapping([entry("a/b", "out", "", "first/", 0), entry("a/#", "out", "", "second/")])
    assert found.out("a/b") == ("first/a/b", 0)
    assert found.out("a/c") == ("second/a/c", 1)


@pytest.mark.parametrize(("remote", "there"), [("far/", ("far", 1)), ("", None)])
def test_the_parent_of_a_prefix_matches_without_its_end(remote: str, there: tuple[str, int] | None) -> None:
    assert Mapping([entry("#", "out", "near/", remote)]).out("near") == there


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "MAX_KNOWN", 3)
    found = Mapping([entry("#", "out", "", "x/")])
    for n in range(10):
        assert found.out(f"t/{n}") == (f"x/t/{n}", 1)
    assert len(found._out) <= 3
