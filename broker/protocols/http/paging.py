"""Long lists in pieces, in the order of names: a page ends with the name behind which the next begins. Floor 4."""

from collections.abc import Callable, Iterable
from itertools import dropwhile, islice
from typing import TypeVar

T = TypeVar("T")


def page(things: Iterable[T], name: Callable[[T], str], limit: int, after: str | None) -> tuple[list[T], str | None]:
    """At most `limit` of `things`, which are sorted by name, behind the name `after`; and that of the last one when
    there are more, else None."""
    rest = things if after is None else dropwhile(lambda thing: name(thing) <= after, things)
    found = list(islice(rest, limit + 1))
    return (found, None) if len(found) <= limit else (found[:limit], name(found[limit - 1]))
