from typing import Any

import pytest
from pydantic import ValidationError

from broker.connectors.file.options import DropOptions


def options(**values: Any) -> DropOptions:
    return DropOptions.model_validate({"path": "/srv/in", "topic": "orders/new", **values})


def test_defaults() -> None:
    drop = options()
    assert (drop.format, drop.patterns, drop.poll, drop.stable_for) == ("csv", ("*.csv",), 2_000, 5_000)
    assert drop.feed == "/srv/in"
    assert options(name="orders").feed == "orders"
    assert options(pattern="*.txt").patterns == ("*.txt",)
    assert options(encoding="UTF8").encoding == options(encoding="utf-8-sig").encoding == "utf-8"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"topic": "a/#"}, "wildcard"),
        ({"topic": "$sys/x"}, "broker's own"),
        ({"format": "xlsx"}, "csv"),
        ({"encoding": "utf-16"}, "convert the files to UTF-8"),
        ({"encoding": "klingon"}, "no encoding"),
        ({"delimiter": '"'}, "delimiter"),
        ({"delimiter": "ab"}, "1 character"),
        ({"poll": "1ms"}, "50"),
        ({"done": "."}, "done must be another folder"),
        ({"failed": "/srv/in/x/.."}, "failed must be another folder"),
        ({"batch": 0}, "1"),
        ({"on_duplicate": "maybe"}, "skip"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_options_name_the_key_and_what_fits(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        options(**values)
