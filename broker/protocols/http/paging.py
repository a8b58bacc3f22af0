"""Long lists in pieces: a page ends with the key behind which the next begins. Floor 4."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from heapq import nsmallest
from itertools import chain, dropwhile, islice
from typing import TypeVar

PIECE = 5_000
"""Names that are looked through in one go."""

T = TypeVar("T")
K = TypeVar("K", str, int)


def page(things: Iterable[T], key: Callable[[T], K], limit: int, after: K | None) -> tuple[list[T], K | None]:
    """At most `limit` of `things`, whose keys rise, behind the key `after`; and that of the last one when there are
    more, else None."""
    rest = things if after is None else dropwhile(lambda thing: key(thing) <= after, things)
    found = list(islice(rest, limit + 1))
    return (found, None) if len(found) <= limit else (found[:limit], key(found[limit - 1]))


async def names_in_order(names: Iterator[str], limit: int, after: str | None) -> tuple[list[str], str | None]:
    """The same of names in no order: they are looked through, but never all held or put in order, and others have their
    turn meanwhile."""
    rest = names if after is None else (name for name in names if name > after)
    first: list[str] = []
    while piece := list(islice(rest, PIECE)):
        first = nsmallest(limit + 1, chain(first, piece))
        await asyncio.sleep(0)
    return page(first, str, limit, None)
