"""What people and programs see of an answer."""

import json

import pytest
import typer

from broker.cli.output import Format, body_text, cell, confirm, printable, show, show_one

ROWS = [{"name": "jobs", "ready": 1234, "topics": ["a/+", "b"]}, {"name": "mail", "ready": 0, "topics": []}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        (True, "yes"),
        (0, "0"),
        (1234567, "1,234,567"),
        (1.5, "1.5"),
        (2.0, "2"),
        (["a", "b"], "a, b"),
        ([], "-"),
        ({"a": 1}, '{"a": 1}'),
        ("[red]x", "[red]x"),
    ],
)
def test_cell(value: object, text: str) -> None:
    assert cell(value) == text


def test_control_characters_cannot_reach_the_terminal() -> None:
    assert printable("a\x1b[2J\nb\x9b") == "a\\x1b[2J\\nb\\x9b"
    assert printable("Ångström €") == "Ångström €"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"body": "hi\n"}, "hi\\n"),
        ({"body": {"a": "é"}}, '{"a": "é"}'),
        ({"body": None}, "null"),
        ({"body_base64": "AAE="}, "<2 bytes>"),
    ],
)
def test_body_text(message: dict[str, object], text: str) -> None:
    assert body_text(message) == text


def test_table_is_plain_in_a_pipe_and_keeps_markup_of_others_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"name": "[bold]x[/]", "ready": 5}], ("name", "ready"), Format.TABLE, "none")
    out = capsys.readouterr().out
    assert "[bold]x[/]" in out
    assert "\x1b" not in out
    assert out.splitlines()[0].split() == ["name", "ready"]


def test_a_wide_table_is_not_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"name": "n" * 120, "body": "b" * 120}], ("name", "body"), Format.TABLE, "none")
    assert "n" * 120 + "  " + "b" * 120 in capsys.readouterr().out


def test_empty_table_is_a_remark_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show([], ("name",), Format.TABLE, "No queue yet")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "No queue yet\n")


def test_json_is_one_value_and_ndjson_one_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, ("name",), Format.JSON, "")
    assert json.loads(capsys.readouterr().out) == ROWS
    show(ROWS, ("name",), Format.NDJSON, "")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS
    show([], ("name",), Format.JSON, "")
    assert json.loads(capsys.readouterr().out) == []


def test_one_thing(capsys: pytest.CaptureFixture[str]) -> None:
    show_one(ROWS[0], Format.TABLE)
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()] == [
        ["name", "jobs"],
        ["ready", "1,234"],
        ["topics", "a/+, b"],
    ]
    show_one(ROWS[0], Format.NDJSON)
    assert json.loads(capsys.readouterr().out) == ROWS[0]


def test_a_question_that_nobody_can_answer_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    confirm("Purge?", yes=True)
    with pytest.raises(typer.Exit) as end:
        confirm("Purge 3 messages?", yes=False)
    assert end.value.exit_code == 2
    assert "--yes" in capsys.readouterr().err
