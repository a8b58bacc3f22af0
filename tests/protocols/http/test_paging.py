"""Long lists in pieces."""

import asyncio
from collections.abc import Iterator

import pytest

from broker import listing
from broker.protocols.http.paging import names_in_order, page


def test_a_page_ends_with_the_key_behind_which_the_next_begins() -> None:
    assert page("abcd", str, 2, None) == (["a", "b"], "b")
    assert page("abcd", str, 2, "b") == (["c", "d"], None)
    assert page("abcd", str, 9, "z") == ([], None)


async def test_names_in_no_order_come_in_order_and_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PIECE", 3)
    names = [f"{i * 7 % 20:02}" for i in range(20)]
    turns: list[int] = []

    def looked_through() -> Iterator[str]:
        for count, name in enumerate(names):
            asyncio.get_running_loop().call_soon(turns.append, count)
            yield name

    found: list[str] = []
    after: str | None = None
    while True:
        part, after = await names_in_order(looked_through(), 6, after)
        found += part
        assert turns
        turns.clear()
        if after is None:
            break
    assert found == sorted(names)
