import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.connectors.file.formats import Flaw, Row, read_rows
from broker.connectors.file.options import DropOptions

LIMIT = 4096


def rows(data: bytes, limit: int = LIMIT, **options: Any) -> list[Row | Flaw]:
    checked = DropOptions.model_validate({"path": "in", "topic": "t", **options})
    return list(read_rows(io.BytesIO(data), checked, limit))


def bodies(data: bytes, **options: Any) -> list[object]:
    found = rows(data, **options)
    assert all(isinstance(row, Row) for row in found), found
    return [json.loads(row.body) for row in found if isinstance(row, Row)]


def test_csv_rows_are_objects_of_text() -> None:
    data = b'\xef\xbb\xbfid,name\r\n1,Ann\r\n\r\n2,"B, ""b""\nline"\r\n3,'
    assert bodies(data) == [
        {"id": "1", "name": "Ann"},
        {"id": "2", "name": 'B, "b"\nline'},
        {"id": "3", "name": ""},
    ]
    assert [(r.number, r.line) for r in rows(data) if isinstance(r, Row)] == [(1, 2), (2, 5), (3, 6)]


def test_csv_key_delimiter_and_encoding() -> None:
    found = rows("id;name\n7;Ägid\n;x\n".encode("latin-1"), key="id", delimiter=";", encoding="latin-1")
    assert found == [Row(1, 2, '{"id":"7","name":"Ägid"}'.encode(), "7"), Row(2, 3, b'{"id":"","name":"x"}', None)]


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b"", 1, "empty"),
        (b"\n\n", 2, "empty"),
        (b"a,a\n1,2\n", 1, "two columns are named 'a'"),
        (b"a,,c\n", 1, "column 2 has no name"),
        (b"a,b\n1,2\n1\n", 3, "1 fields, the header has 2"),
        (b"a,b\n1,2,3\n", 2, "3 fields, the header has 2"),
        (b'a,b\n1,"2\n3,4\n5,6\n', 4, "never closed"),
        (b'a,b\n1,"2"x\n', 2, "expected after"),
        (b"a,b\n1,\xff\n", 2, "not utf-8 at byte 3"),
        (b"a,b\n1,2\n" + b"x" * 5000 + b",1\n", 3, "over the limit"),
        (b"a\n" + b"\\" * 4000 + b"\n", 2, "over the limit"),
        (b"a\r1\r2\r", 1, "new-line"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_told_with_its_line(data: bytes, line: int, says: str) -> None:
    found = rows(data)
    flaw = found[-1]
    assert isinstance(flaw, Flaw)
    assert flaw.line == line
    assert says in flaw.reason


def test_csv_goes_on_behind_a_bad_row_to_tell_all_of_them() -> None:
    assert [type(r) for r in rows(b"a,b\n1\n1,2\n1,2,3\n")] == [Flaw, Row, Flaw]


def test_a_missing_or_long_key() -> None:
    assert "no column 'x'" in str(rows(b"a,b\n", key="x"))
    assert "255" in str(rows(b"a\n" + b"k" * 256 + b"\n", key="a"))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@given(
    st.lists(TEXT.filter(str.strip), min_size=1, max_size=5, unique=True),
    st.lists(st.lists(TEXT, min_size=5, max_size=5), max_size=8),
)
def test_what_a_csv_writer_writes_is_what_comes_out(header: list[str], records: list[list[str]]) -> None:
    if header[0].startswith("\ufeff"):
        header[0] = "x" + header[0]
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    cut = [record[: len(header)] for record in records]
    writer.writerows(cut)
    assert bodies(text.getvalue().encode()) == [dict(zip(header, record, strict=True)) for record in cut]


@given(st.binary(max_size=300), st.sampled_from(["csv", "ndjson", "whole"]))
def test_any_bytes_give_rows_or_flaws(data: bytes, form: str) -> None:
    for row in rows(data, format=form):
        if isinstance(row, Row) and form != "whole":
            json.loads(row.body)


def test_ndjson_lines_stay_as_they_are() -> None:
    data = b'\xef\xbb\xbf{"a": 1.10}\n\n  [1]\r\n"x"\nnull'
    found = [row.body for row in rows(data, format="ndjson") if isinstance(row, Row)]
    assert found == [b'{"a": 1.10}', b"[1]", b'"x"', b"null"]
    keyed = rows(b'{"k":"a"}\n{"k":7}\n{"k":null}\n{}\n', format="ndjson", key="k")
    assert [row.key for row in keyed if isinstance(row, Row)] == ["a", "7", None, None]


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b'{"a":1}\n{"a":\n', 2, "no JSON"),
        (b'{"a":NaN}\n', 1, "NaN is not JSON"),
        (b"[" * 4000 + b"\n", 1, "JSON"),
        (b"\xff\n", 1, "not utf-8"),
        (b'{"a":1}\n"' + b"x" * 5000 + b'"\n', 2, "over the limit"),
        (b'{"k":[1]}\n', 1, "is to be the key"),
        (b'{"k":true}\n', 1, "is to be the key"),
    ],
)
def test_what_is_wrong_with_an_ndjson_file(data: bytes, line: int, says: str) -> None:
    flaw = rows(data, format="ndjson", key="k")[-1]
    assert isinstance(flaw, Flaw)
    assert flaw.line == line
    assert says in flaw.reason


def test_numbers_beyond_reason_are_a_flaw() -> None:
    (flaw,) = rows(b"1" * 5000, limit=1 << 20, format="ndjson")
    assert isinstance(flaw, Flaw)
    assert "digits" in flaw.reason


def test_nesting_that_breaks_the_parser_is_a_flaw() -> None:
    (flaw,) = rows(b"[" * 200_000, limit=1 << 20, format="ndjson")
    assert isinstance(flaw, Flaw)


def test_whole_files() -> None:
    assert rows(b"\x00\xff", format="whole") == [Row(1, 1, b"\x00\xff")]
    assert rows(b"x" * LIMIT, format="whole") == [Row(1, 1, b"x" * LIMIT)]
    (flaw,) = rows(b"x" * (LIMIT + 1), format="whole")
    assert isinstance(flaw, Flaw)
