"""SQLite connections that fail at a chosen step: the real store otherwise."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

When = Literal["before", "after"]
"""Does the step take place before it fails?"""

REASON = "disk I/O error (a fault on purpose)"


@dataclass
class Faults:
    """Step number `step` fails, counted from 1 while `armed`; then, as on a broken disk, so does every later one that
    is not a ROLLBACK, unless the fault is `passing`. `statements` are those that were seen."""

    step: int = 0
    when: When = "before"
    passing: bool = False
    armed: bool = False
    statements: list[str] = field(default_factory=list)

    def run(self, sql: str, work: Callable[[], Any]) -> Any:
        if not self.armed or sql == "ROLLBACK":
            return work()
        self.statements.append(sql)
        if not self.step or len(self.statements) < self.step or (self.passing and self.hit > 1):
            return work()
        if self.when == "after" and self.hit == 1:
            work()
        raise sqlite3.OperationalError(REASON)

    @property
    def hit(self) -> int:
        """How many steps came since the one that fails, this included."""
        return max(0, len(self.statements) - self.step + 1)


class Faulty(sqlite3.Connection):
    """See the module."""

    def __init__(self, *args: Any, faults: Faults, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._faults = faults

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self._faults.run(sql, lambda: super(Faulty, self).execute(sql, *args))
        return cursor

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self._faults.run(sql, lambda: super(Faulty, self).executemany(sql, *args))
        return cursor

    def executescript(self, sql: str, *args: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self._faults.run(sql, lambda: super(Faulty, self).executescript(sql, *args))
        return cursor


@contextmanager
def faulty_connections(faults: Faults) -> Iterator[None]:
    """Every connection opened meanwhile fails as told."""
    with patch.object(sqlite3, "connect", partial(sqlite3.connect, factory=partial(Faulty, faults=faults))):
        yield
