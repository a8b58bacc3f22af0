"""`postroom pub` before anything is sent."""

import pytest

from broker.cli.app import main
from broker.cli.publish import guess_type


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"a": 1}', "application/json"),
        (b" [1, 2]", "application/json"),
        (b"{not json", "text/plain; charset=utf-8"),
        (b"42", "text/plain; charset=utf-8"),
        (b"", "text/plain; charset=utf-8"),
        (b"\xff\x00", "application/octet-stream"),
    ],
)
def test_guess_type(body: bytes, kind: str) -> None:
    assert guess_type(body) == kind


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pub"], "Missing argument"),
        (["pub", "a", "b", "--id", "x", "--count", "2"], "--id names one message"),
        (["pub", "a", "b", "--file", "x"], "either a body or --file"),
        (["pub", "a", "b", "--header", "novalue"], "NAME=VALUE"),
        (["pub", "a", "--lines", "--count", "2"], "either --lines or --count"),
        (["pub", "a", "b", "--priority", "10"], "priority"),
        (["pub", "a", "b", "-o", "xml"], "xml"),
        (["queue", "create", "a"], "topic"),
        (["bench", "--native", "nowhere"], "HOST:PORT"),
        (["fly"], "No such command"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["pub", "a", "b"],
        ["sub", "a", "-n", "1"],
        ["queue", "ls"],
        ["queue", "purge", "a", "--yes"],
        ["topic", "ls"],
        ["status"],
    ],
)
def test_no_daemon_is_1_with_the_next_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--url", "http://127.0.0.1:1"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "No daemon answers at http://127.0.0.1:1.\nTry: postroom serve\n"


def test_no_native_listener(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--native", "127.0.0.1:1", "-n", "1"]) == 1
    told = capsys.readouterr().err
    assert "No native listener answers at 127.0.0.1:1" in told
    assert "name the address that it printed: postroom bench --native HOST:PORT" in told


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", "a", "--file", "/nonexistent/x.json"]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("postroom 0.")
