"""Long lists in pieces: a page ends with the key behind which the next begins. Floor 4."""

from collections.abc import Callable, Iterable
from itertools import dropwhile, islice
from typing import TypeVar

from broker.listing import first_in_order

T = TypeVar("T")
K = TypeVar("K", str, int)


def page(things: Iterable[T], key: Callable[[T], K], limit: int, after: K | None) -> tuple[list[T], K | None]:
    """At most `limit` of `things`, whose keys rise, behind the key `after`; and that of the last one when there are
    more, else None."""
    rest = things if after is None else dropwhile(lambda thing: key(thing) <= after, things)
    found = list(islice(rest, limit + 1))
    return (found, None) if len(found) <= limit else (found[:limit], key(found[limit - 1]))


async def names_in_order(names: Iterable[str], limit: int, after: str | None) -> tuple[list[str], str | None]:
    """The same of names in no order, which must not change meanwhile."""
    return page(await first_in_order(names, limit + 1, after), str, limit, None)
