"""What requests say."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.protocols.http import parameters
from broker.protocols.http.operation import Answer, Operation, Tag
from broker.protocols.http.router import Route, Router


def outcome(read: Callable[..., Any], *values: Any) -> Any:
    """What is read, or the code of the refusal."""
    try:
        return read(*values)
    except BrokerError as error:
        return error.code


@pytest.mark.parametrize(
    ("text", "ms"), [("30", 30_000), ("0.5", 500), ("0", 0), ("250ms", 250), ("30s", 30_000), ("5m", 300_000)]
)
def test_durations(text: str, ms: int) -> None:
    assert parameters.duration(text, "wait") == ms


@given(st.text())
def test_any_text_as_duration_or_number_is_read_or_refused(text: str) -> None:
    for value in (outcome(parameters.duration, text, "x"), outcome(parameters.whole, text, "x", 0, 9)):
        assert value is Code.BAD_OPTION or (isinstance(value, int) and value >= 0)


@given(st.text(st.sampled_from("ab*+#/ ")))
def test_any_filter_is_read_or_refused(text: str) -> None:
    found = outcome(parameters.filters, [text])
    assert found is Code.BAD_FILTER or not {"*", "**"} & set(found[0].split("/"))


ABOUT = Operation(Tag.BROKER, "For a test", {200: Answer("Never.")})


async def _nothing(request: object, part: str) -> object:
    raise AssertionError


def test_longer_beginnings_are_tried_first() -> None:
    router = Router()
    for path in ("/v1/{a}", "/v1/things/{b}", "/v1/things/{b}/go", "/v1/things"):
        router.add(Route("GET", path, _nothing, path, ABOUT))  # type: ignore[arg-type]
    found = {path: router.find("GET", path) for path in ("/v1/x/y", "/v1/things/x", "/v1/things/x/go", "/v1/things")}
    assert {path: (route.name, part) for path, (route, part) in found.items()} == {
        "/v1/x/y": ("/v1/{a}", "x/y"),
        "/v1/things/x": ("/v1/things/{b}", "x"),
        "/v1/things/x/go": ("/v1/things/{b}/go", "x"),
        "/v1/things": ("/v1/things", ""),
    }
    for path in ("/v1/", "/v2", "/", ""):
        with pytest.raises(BrokerError):
            router.find("GET", path)
