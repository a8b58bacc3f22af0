"""What came of it, for people (a table, Markdown) and for programs (JSON)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from tests.bench.figures import Goal, Results
from tests.bench.plan import Table


@dataclass(frozen=True, slots=True)
class Told:
    """A scenario that was run."""

    name: str
    table: Table
    results: Results


def number(value: str | float | None) -> str:
    """With as many digits as mean something."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def goal_row(goal: Goal) -> list[str]:
    """What, asked, measured, verdict."""
    unit = f" {goal.unit}" if goal.unit else ""
    asked = f"{goal.bound.value} {number(goal.limit)}{unit}"
    return [goal.what, asked, number(goal.value) + (unit if goal.value is not None else ""), goal.verdict]


GOAL_COLUMNS = ("goal", "asked", "measured", "")


def show(console: Console, told: Told) -> None:
    """On a terminal."""
    console.rule(told.name, align="left")
    console.print(told.table.how, highlight=False)
    console.print(_grid(told.table.columns, [[number(cell) for cell in row] for row in told.table.rows]))
    if told.table.goals:
        console.print(_grid(GOAL_COLUMNS, [goal_row(goal) for goal in told.table.goals]))
    for failure in told.results.failures:
        console.print(f"failed: {failure}", highlight=False, markup=False)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    grid = Grid()
    for index, column in enumerate(columns):
        grid.add_column(column, justify="right" if index else "left")
    for row in rows:
        grid.add_row(*row)
    return grid


def markdown(told: Told) -> str:
    """For a page."""
    parts = [f"### {told.name}", told.table.how]
    parts.append(_markdown_table(told.table.columns, [[number(cell) for cell in row] for row in told.table.rows]))
    if told.table.goals:
        parts.append(_markdown_table(GOAL_COLUMNS, [goal_row(goal) for goal in told.table.goals]))
    parts += [f"Failed: {failure}" for failure in told.results.failures]
    return "\n\n".join(parts)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---" if not i else "--:" for i in range(len(columns))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_json(head: Mapping[str, Any], all_told: Sequence[Told]) -> str:
    """With the values of every run."""
    scenarios = [
        {
            "scenario": told.name,
            "how": told.table.how,
            "table": [dict(zip(told.table.columns, row, strict=True)) for row in told.table.rows],
            "goals": [_goal(goal) for goal in told.table.goals],
            "runs": {key: [dict(v) for _, v in sorted(runs.items())] for key, runs in told.results.runs.items()},
            "failures": told.results.failures,
        }
        for told in all_told
    ]
    return json.dumps({**head, "scenarios": scenarios}, indent=2, ensure_ascii=False)


def _goal(goal: Goal) -> dict[str, Any]:
    return {
        "goal": goal.what,
        "asked": f"{goal.bound.value} {goal.limit:g}",
        "measured": goal.value,
        "unit": goal.unit,
        "aim": goal.aim,
        "met": goal.met,
    }
