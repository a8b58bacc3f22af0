"""How answers are shown: a table for people, JSON or NDJSON for programs. Floor 7.

Standard output carries the answer alone; questions, progress and remarks go to standard error. Colour only on a
terminal and never with NO_COLOR (rich keeps both rules); what comes from messages is stripped of control characters, so
that a body cannot drive the terminal.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Format(StrEnum):
    """`-o`: a table for people, one JSON value, or one JSON object per line."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"


OutputOption = Annotated[Format, typer.Option("-o", "--output", help="How to print the answer.")]
UrlOption = Annotated[
    str, typer.Option("--url", envvar=["POSTROOM_HTTP_URL", "POSTROOM_URL"], help="The daemon's HTTP address.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

DEFAULT_URL = "http://127.0.0.1:7680"
WIDE = 400
"""Columns when nobody looks: a table in a pipe is not cut to a screen."""


def console(stderr: bool = False) -> Console:
    """A console on today's stdout or stderr (made per call, so that redirection in tests and pipes holds)."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False)


def remark(text: str) -> None:
    """Say something that is not the answer."""
    for line in text.splitlines():
        console(stderr=True).print(escape(printable(line)), soft_wrap=True)


def show(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], form: Format, empty: str) -> None:
    """Print rows. A table shows `columns` only and, when there is no row, `empty` as a remark."""
    if form is Format.TABLE:
        rows = list(rows)
        _print_table(rows, columns) if rows else remark(empty)
    elif form is Format.JSON:
        print(json.dumps(list(rows), indent=2, ensure_ascii=False))
    else:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False), flush=True)


def show_one(values: Mapping[str, Any], form: Format) -> None:
    """Print one thing: as name and value per line, or as JSON."""
    if form is Format.TABLE:
        width = max(map(len, values), default=0)
        for name, value in values.items():
            console().print(f"[bold]{escape(f'{name:{width}}')}[/]  {escape(cell(value))}", soft_wrap=True)
    else:
        print(json.dumps(values, indent=2 if form is Format.JSON else None, ensure_ascii=False))


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    table = Table(box=SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for name in columns:
        number = all(type(row.get(name)) in (int, float, type(None)) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell(row.get(name))) for name in columns))
    console().print(table)


def cell(value: object) -> str:
    """One value as people read it: `-` for nothing, 1,234 for numbers, a list by commas."""
    if value is None or value == "":
        return "-"
    if type(value) is bool:
        return "yes" if value else "no"
    if type(value) is int:
        return f"{value:,}"
    if type(value) is float:
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, (list, tuple)) and all(type(v) is str for v in value):
        return printable(", ".join(value)) or "-"
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def printable(text: str) -> str:
    """Control characters as `\\x1b` and the like, newlines as `\\n`: one line that cannot move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def body_text(message: Mapping[str, Any]) -> str:
    """The body as one printable line; of bytes only how many there are (JSON output has them)."""
    if "body" in message:
        body = message["body"]
        return printable(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False))
    packed = message.get("body_base64", "")
    return f"<{len(packed) // 4 * 3 - packed.count('=')} bytes>"


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal; raises typer.Exit when the answer is no, or when nobody can be asked (then 2)."""
    if yes:
        return
    if not sys.stdin.isatty():
        remark(f"{question} Nobody is here to say yes: add --yes.")
        raise typer.Exit(2)
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
