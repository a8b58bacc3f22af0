"""The five steps as a table that moves on a terminal, and as five lines in a pipe. Floor 7."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from broker.cli.output import console, printable

STEPS = {
    "publish": "rows of the file",
    "commit": "messages on disk, fsynced",
    "dispatch": "leases given",
    "deliver": "three who wanted them",
    "settle": "acks on disk",
}


@dataclass
class Screen:
    """`tell` sets what a step counts; a step that is done is ticked once and, in a pipe, printed once."""

    counts: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    note: str = ""
    _console: Console = field(default_factory=console)
    _live: Live | None = None

    def say(self, text: str = "") -> None:
        """A line of the story; rich markup is allowed, so escape what is not yours."""
        self._console.print(text, soft_wrap=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show the table while inside (on a terminal), and leave its last state."""
        if not self._console.is_terminal:
            yield
            return
        with Live(self._table(), console=self._console, refresh_per_second=12) as self._live:
            yield
            self._live.update(self._table())
        self._live = None

    def tell(self, step: str, count: str, done: bool) -> None:
        """A step's numbers now."""
        self.counts[step] = count
        if done and step not in self.done:
            self.done.add(step)
            if not self._console.is_terminal:
                number = list(STEPS).index(step) + 1
                self.say(f"  {number} {step:9} {STEPS[step]:26} {escape(count)}")
        if self._live is not None:
            self._live.update(self._table())

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False, caption=escape(printable(self.note)) or None)
        table.caption_justify = "left"
        for _ in range(3):
            table.add_column(no_wrap=True)
        for number, (step, meaning) in enumerate(STEPS.items(), 1):
            mark = "[green]✓[/]" if step in self.done else "[dim]·[/]"
            table.add_row(f"  {mark} {number} [bold]{step}[/]", f"[dim]{meaning}[/]", escape(self.counts.get(step, "")))
        return table
