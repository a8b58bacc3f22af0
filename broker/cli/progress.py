"""Progress of anything long: done, rate and time left, on standard error, only when a terminal looks. Floor 7."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Advance(Protocol):
    """Say that `count` more are done."""

    def __call__(self, count: int = 1) -> None:
        """`count` may be 0."""


class _Rate(ProgressColumn):
    """Finished per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "-/s")


def _silent(count: int = 1) -> None:
    """Nobody looks."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Advance]:
    """Show `what` moving towards `total` (None: unknown). Silent when standard error is no terminal or the work is
    one step."""
    if total == 1 or not sys.stderr.isatty():
        yield _silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count=1: bar.advance(task, count)
