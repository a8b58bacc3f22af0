"""Which topics a set of filters matches: remembered, because readers ask it of every row that they are behind by.

How much is remembered is bounded over all sets together. Floor 2.
"""

from collections.abc import Sequence

from broker.core.topic import matches

MAX_SETS = 1_000
MAX_ANSWERS = 500_000


class Matcher(dict[str, bool]):
    """Topic → does one of the filters match it?"""

    def __init__(self, filters: Sequence[str], owner: "Matchers") -> None:
        super().__init__()
        self._filters = filters
        self._owner = owner

    def __missing__(self, topic: str) -> bool:
        found = self[topic] = any(matches(f, topic) for f in self._filters)
        self._owner.answers += 1
        return found


class Matchers:
    """See the module. `answers`: how many are remembered, about."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str, ...], Matcher] = {}
        self.answers = 0

    def of(self, filters: Sequence[str]) -> Matcher:
        """For a piece of work, not to be kept: only here is looked whether too much is remembered."""
        key = tuple(filters)
        found = self._sets.get(key)
        if found is None or self.answers > MAX_ANSWERS:
            if len(self._sets) >= MAX_SETS or self.answers > MAX_ANSWERS:
                self._sets.clear()
                self.answers = 0
            found = self._sets[key] = Matcher(key, self)
        return found
