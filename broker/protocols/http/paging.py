"""Long lists in pieces: a page ends with the key behind which the next begins. Floor 4."""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from itertools import dropwhile, islice
from typing import TypeVar

T = TypeVar("T")
K = TypeVar("K", str, int)


def page(things: Iterable[T], key: Callable[[T], K], limit: int, after: K | None) -> tuple[list[T], K | None]:
    """At most `limit` of `things`, whose keys rise, behind the key `after`; and that of the last one when there are
    more, else None."""
    rest = things if after is None else dropwhile(lambda thing: key(thing) <= after, things)
    found = list(islice(rest, limit + 1))
    return (found, None) if len(found) <= limit else (found[:limit], key(found[limit - 1]))


def page_of_any(things: Iterable[T], key: Callable[[T], K], limit: int, after: K | None) -> tuple[list[T], K | None]:
    """The same of things in no order, each with a key of its own: they are looked through, but not put in order and not
    held."""
    rest = things if after is None else (thing for thing in things if key(thing) > after)
    return page(nsmallest(limit + 1, rest, key=key), key, limit, None)
