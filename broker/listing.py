"""A page of a long list: the first of many names that are in no order, while others have their turn. Floor 2."""

import asyncio
from collections.abc import Callable, Iterable
from heapq import nsmallest
from itertools import chain, islice
from typing import TypeVar

PIECE = 2_000
"""Names that are looked through in one go."""
DESCRIBED = 100
"""Things that are described in one go."""
MOST = 10_000
"""Things in one list."""

T = TypeVar("T")


async def first_in_order(
    names: Iterable[str], limit: int, after: str | None, seen: Callable[[str], bool] | None = None
) -> list[str]:
    """The first `limit` of these names above `after`, of those that `seen` says yes to, in order. They are looked
    through, but never all held or put in order; they must not change meanwhile."""
    rest = iter(names)
    first: list[str] = []
    while piece := list(islice(rest, PIECE)):
        if after is not None:
            piece = [name for name in piece if name > after]
        if seen is not None:
            piece = [name for name in piece if seen(name)]
        first = nsmallest(limit, chain(first, piece))
        await asyncio.sleep(0)
    return first


async def first_described(
    names: Callable[[], Iterable[str]],
    describe: Callable[[list[str]], list[T]],
    limit: int,
    after: str | None,
    seen: Callable[[str], bool],
) -> list[T]:
    """What `describe` says of the first `limit` of these; it leaves out those that have gone meanwhile, and the next
    ones make up for them."""
    things: list[T] = []
    while wanted := limit - len(things):
        found = await first_in_order(names(), wanted, after, seen)
        for at in range(0, len(found), DESCRIBED):
            things += describe(found[at : at + DESCRIBED])
            await asyncio.sleep(0)
        if len(found) < wanted:
            break
        after = found[-1]
    return things
