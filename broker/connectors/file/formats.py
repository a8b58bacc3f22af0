"""The three forms of a dropped file, from bytes to rows: csv, ndjson, whole.

Every line is bounded before it is read and a file is judged row by row: what is wrong comes out as a Flaw with its
line, so that somebody can mend it; nothing is guessed, repaired or left out. A flaw after which nothing can be told any
more (a quote that never ends) is the last. Reading the same bytes gives the same rows. Floor 4.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from broker.connectors.file.options import DropOptions
from broker.core.message import MAX_ID_BYTES

MAX_COLUMNS = 2_000
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """One message to be. `number` counts from 1 and leaves out header and blank lines; `line` is where it ends."""

    number: int
    line: int
    body: bytes
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a line; for people."""

    line: int
    reason: str


class _LineError(ValueError):
    """A line that cannot be read as text."""


def read_rows(file: BinaryIO, options: DropOptions, max_body: int) -> Iterator[Row | Flaw]:
    """Rows and flaws in the order of the file. Memory: one row. Raises OSError when the disk does."""
    if options.format == "csv":
        return _read_csv(file, options, max_body)
    if options.format == "ndjson":
        return _read_ndjson(file, options, max_body)
    return _read_whole(file, max_body)


def _read_whole(file: BinaryIO, max_body: int) -> Iterator[Row | Flaw]:
    body = file.read(max_body + 1)
    yield (
        Flaw(1, f"the file is over the limit of {max_body} bytes (limits.max_body)")
        if len(body) > max_body
        else Row(1, 1, body)
    )


def _lines(file: BinaryIO, encoding: str, limit: int) -> Iterator[str]:
    """Lines with their ends, decoded; at most `limit` bytes each. Raises _LineError."""
    first = True
    while line := file.readline(limit + 1):
        if len(line) > limit:
            raise _LineError(f"the line is over the limit of {limit} bytes (limits.max_body)")
        if first and encoding == "utf-8":
            line = line.removeprefix(_BOM)
        first = False
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            raise _LineError(f"not {encoding} at byte {error.start + 1} of the line; save it as {encoding}") from None


# CSV


def _read_csv(file: BinaryIO, options: DropOptions, max_body: int) -> Iterator[Row | Flaw]:
    # strict: otherwise a missing quote swallows the rest of the file into one field.
    reader = csv.reader(_lines(file, options.encoding, max_body), delimiter=options.delimiter, strict=True)
    try:
        header = next((fields for fields in reader if fields), [])
        wrong = _header_flaw(header, options.key)
        if wrong:
            yield Flaw(max(1, reader.line_num), wrong)
            return
        number = 0
        for fields in reader:
            if fields:
                number += 1
                yield _csv_row(number, reader.line_num, header, fields, options.key, max_body)
    except csv.Error as error:
        yield Flaw(max(1, reader.line_num), _csv_reason(error))
    except _LineError as error:
        yield Flaw(reader.line_num + 1, str(error))


def _csv_reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text or "field larger" in text:
        return f"{text}: most likely a quote that was opened and never closed"
    return text


def _header_flaw(header: Sequence[str], key: str | None) -> str | None:
    if not header:
        return "the file is empty; its first line must name the columns"
    if len(header) > MAX_COLUMNS:
        return f"{len(header)} columns; at most {MAX_COLUMNS}"
    seen: set[str] = set()
    for place, name in enumerate(header, 1):
        if not name.strip():
            return f"column {place} has no name"
        if name in seen:
            return f"two columns are named {name!r}"
        seen.add(name)
    if key is not None and key not in seen:
        return f"no column {key!r}, which is to be the key; there are {', '.join(header)[:500]}"
    return None


def _csv_row(
    number: int, line: int, header: Sequence[str], fields: Sequence[str], key: str | None, max_body: int
) -> Row | Flaw:
    if len(fields) != len(header):
        return Flaw(line, f"{len(fields)} fields, the header has {len(header)}")
    record = dict(zip(header, fields, strict=True))
    body = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > max_body:
        return Flaw(line, f"the row is over the limit of {max_body} bytes (limits.max_body)")
    return _keyed(Row(number, line, body, (record[key] or None) if key else None))


def _keyed(row: Row) -> Row | Flaw:
    if row.key is not None and len(row.key.encode("utf-8", "replace")) > MAX_ID_BYTES:
        return Flaw(row.line, f"the key is over {MAX_ID_BYTES} bytes")
    return row


# NDJSON


def _read_ndjson(file: BinaryIO, options: DropOptions, max_body: int) -> Iterator[Row | Flaw]:
    number = line = 0
    try:
        for line, text in enumerate(_lines(file, "utf-8", max_body + 2), 1):
            text = text.strip(" \t\r\n")
            if text:
                number += 1
                yield _ndjson_row(number, line, text, options.key, max_body)
    except _LineError as error:
        yield Flaw(line + 1, str(error))


def _ndjson_row(number: int, line: int, text: str, key: str | None, max_body: int) -> Row | Flaw:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return Flaw(line, f"no JSON: {error.msg} at character {error.pos + 1}")
    except RecursionError:
        return Flaw(line, "JSON nested too deeply")
    except ValueError as error:
        return Flaw(line, f"no JSON: {error}")
    body = text.encode()
    if len(body) > max_body:
        return Flaw(line, f"the line is over the limit of {max_body} bytes (limits.max_body)")
    if key is None:
        return Row(number, line, body)
    found = value.get(key) if isinstance(value, dict) else None
    if found is not None and type(found) not in (str, int):
        return Flaw(line, f"{key!r} is to be the key; it must be text or a whole number")
    return _keyed(Row(number, line, body, None if found in (None, "") else str(found)))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
