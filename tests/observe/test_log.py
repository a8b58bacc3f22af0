"""What a log line looks like, and what never gets into one."""

import ast
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import broker
from broker.observe.log import (
    HIDDEN,
    JsonFormatter,
    LogfmtFormatter,
    LogOptions,
    RedactingFilter,
    configure_logging,
    is_secret_name,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def logged(options: LogOptions | None = None, secrets: tuple[str, ...] = (), **call: Any) -> str:
    stream = call.pop("stream", None) or io.StringIO()
    configure_logging(options or LogOptions(), secrets, stream)
    logging.getLogger("broker.test").info(call.pop("msg", "it happened"), *call.pop("args", ()), **call)
    return str(stream.getvalue())


def test_a_pipe_gets_json_lines_with_the_fields_of_the_event() -> None:
    event = json.loads(logged(extra={"subscription": "billing", "count": 3}))
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "info",
        "logger": "broker.test",
        "message": "it happened",
        "subscription": "billing",
        "count": 3,
    }


def test_a_terminal_gets_logfmt() -> None:
    line = logged(stream=Terminal(), extra={"path": "/a b", "count": 3, "on": True})
    assert line.endswith('level=info logger=broker.test message="it happened" path="/a b" count=3 on=true\n')


@pytest.mark.parametrize(("form", "first"), [("json", "{"), ("logfmt", "t")])
def test_the_form_can_be_chosen(form: str, first: str) -> None:
    options = LogOptions.model_validate({"format": form})
    assert logged(options, stream=Terminal())[0] == first


def test_a_line_break_in_a_value_does_not_make_a_second_line() -> None:
    for stream in (io.StringIO(), Terminal()):
        assert logged(stream=stream, msg="a\nlevel=error", extra={"name_": "x\ny"}).count("\n") == 1


def test_a_field_that_is_named_like_ours_keeps_its_value() -> None:
    event = json.loads(logged(extra={"level": "high", "time": 7}))
    assert (event["level"], event["level_"], event["time_"]) == ("info", "high", 7)


def test_the_level_holds_and_can_be_changed() -> None:
    stream = io.StringIO()
    configure_logging(LogOptions(level="warning"), (), stream)
    logging.getLogger("broker.test").info("quiet")
    configure_logging(LogOptions(level="debug"), (), stream)
    logging.getLogger("broker.test").debug("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2hunter2",
        "authorization=hunter2hunter2",
        "sent Bearer hunter2hunter2 along",
        "token=hunter2hunter2&x=1",
        'password: "hunter2hunter2"',
        "whsec_hunter2hunter2",
        "/v1/stream?access_token=hunter2hunter2",
        "no token pr_0a1b2c3d4e5f_hunter2hunter2 is known",
        "amqp://bob:hunter2hunter2@host/",
    ],
)
@pytest.mark.parametrize("form", [JsonFormatter(), LogfmtFormatter()])
def test_secrets_of_known_forms_are_hidden_wherever_they_stand(text: str, form: logging.Formatter) -> None:
    try:
        int(text)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "%s", (text,), sys.exc_info())
    record.detail = {"deep": [text]}
    assert RedactingFilter().filter(record)
    line = form.format(record)
    assert "hunter2" not in line
    assert line.count(HIDDEN) == 3


def test_secrets_of_the_configuration_and_fields_named_like_secrets_are_hidden() -> None:
    line = logged(secrets=("s3cr3t-value",), msg="got %s", args=("s3cr3t-value",), extra={"token": "abc", "key": "k1"})
    event = json.loads(line)
    assert event["message"] == f"got {HIDDEN}"
    assert (event["token"], event["key"]) == (HIDDEN, "k1")


def test_payloads_are_told_by_their_length() -> None:
    line = logged(msg="body %r", args=(b"private words",), extra={"body": b"private words", "all": [b"private"]})
    assert "private" not in line
    assert json.loads(line)["body"] == "<13 bytes>"


def test_a_long_text_is_cut() -> None:
    assert len(logged(extra={"text": "x" * 100_000})) < 3_000


@pytest.mark.parametrize(
    ("name", "is_one"), [("webhook_secret", True), ("token", True), ("key", False), ("tokens", False)]
)
def test_which_names_hold_secrets(name: str, is_one: bool) -> None:
    assert is_secret_name(name) is is_one


def test_no_field_in_the_code_has_a_name_that_logging_forbids() -> None:
    forbidden = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
    files = sorted(Path(broker.__file__).parent.rglob("*.py"))
    fields = [
        (file.name, key.value)
        for file in files
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.keyword) and call.arg == "extra"
        for key in ast.walk(call.value)
        if isinstance(key, ast.Constant)
    ]
    assert len(fields) > 20
    assert [(file, name) for file, name in fields if name in forbidden] == []
