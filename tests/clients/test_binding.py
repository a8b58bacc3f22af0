"""How a worker function's parameters say what it is handed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from postroom_client import Message, ThreadMessage
from postroom_client.worker import bind


@dataclasses.dataclass
class Order:
    number: int


async def nothing() -> None: ...
async def bare(m): ...  # type: ignore[no-untyped-def]
async def message(m: Message) -> None: ...
def threaded(m: ThreadMessage) -> None: ...
async def value(order: Order) -> None: ...
async def both(order: Order, m: Message) -> None: ...
async def bare_both(value, m): ...  # type: ignore[no-untyped-def]
async def defaulted(m: Message, tries: int = 3) -> None: ...


@pytest.mark.parametrize(
    ("function", "decode", "arguments"),
    [
        (nothing, None, ()),
        (bare, None, ("the message",)),
        (message, None, ("the message",)),
        (threaded, None, ("the message",)),
        (defaulted, None, ("the message",)),
        (value, None, ("the value",)),
        (bare, Order, ("the value",)),
        (both, None, ("the value", "the message")),
        (bare_both, None, ("the value", "the message")),
        (len, None, ("the message",)),
    ],
)
def test_arguments(function: Callable[..., Any], decode: Any, arguments: tuple[str, ...]) -> None:
    assert bind(function, decode).arguments(lambda: "the value", "the message") == arguments


def test_the_annotation_is_the_decoder_unless_one_is_given() -> None:
    annotated, given, none = bind(value).decoder, bind(value, bytes.decode).decoder, bind(bare_both).decoder
    assert annotated is not None
    assert annotated(b'{"number":7}') == Order(7)
    assert given is bytes.decode
    assert none is None


def test_three_parameters_are_too_many() -> None:
    async def three(a: int, b: int, c: int) -> None: ...

    async def keyword(a: int, *, b: int) -> None: ...

    for function in (three, keyword):
        with pytest.raises(TypeError, match="must take a value, a message, or both"):
            bind(function)


def test_an_annotation_that_nobody_knows() -> None:
    async def lost(a: "Nobody") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"the annotation of a in .*lost cannot be resolved"):
        bind(lost)
