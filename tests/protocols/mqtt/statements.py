"""The table of MQTT 5.0's normative statements: which test holds each.

`python -m tests.protocols.mqtt.statements` writes STATEMENTS.md anew; it needs POSTROOM_MQTT_VECTORS.
"""

import importlib
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.protocols.mqtt.cases import BROKEN
from tests.protocols.mqtt.vectors import FOLDER

TABLE = Path(__file__).with_name("STATEMENTS.md")
TESTS = Path(__file__).parents[2]
MARK = "mark.statement("
PURE = ("cases", "test_rules", "test_fitting", "test_outbound", "test_inbound", "test_aliases")
"""Where codec and flow are tried without a door."""
ASKED = PURE[2:]
"""What they hold is held only when the door asks for it, so that a test of the door belongs to it."""
PARTLY = frozenset(
    f"MQTT-{number}"
    for number in (
        *("2.2.1-4", "2.2.1-5", "3.1.2-2", "3.1.3-3", "3.1.4-6", "3.3.2-18", "3.9.3-1", "3.11.3-1", "6.0.0-2"),
    )
)
"""Likewise: the codec holds them as far as bytes go, but the server chooses the identifier, sends the CONNACK, forwards
in order."""
_NO_AUTH = "extended authentication is not spoken, and no AUTH is sent"
NOT_OURS = {
    "MQTT-3.3.4-10": "CONNECT of MQTT 5.0 has no Maximum QoS",
    **dict.fromkeys((f"MQTT-{number}" for number in ("3.15.2-2", "3.15.2-3", "4.12.0-2", "4.12.0-3")), _NO_AUTH),
    "MQTT-4.12.0-5": _NO_AUTH,
}
"""Statements that bind servers too, but have nothing to say of this one, and why."""
HEAD = """# The 251 normative statements of MQTT 5.0

Made by `python -m tests.protocols.mqtt.statements`; a test compares, and that none is without a test. *cases* break a
statement of the codec's each (`cases.py`); other tests carry its mark: `test_rules`, `test_fitting`, `test_outbound`,
`test_inbound` and `test_aliases` try codec and flow alone, all others the door, on a real engine and real sockets. *A
client's*: it binds clients alone, and is neither ours to keep nor to check. `test_statements` and `mutations.py` break
rules and see the tests fail.

| statement | level | binds | held by |
|---|---|---|---|
"""


def table() -> str:
    """The whole page."""
    held = tests()
    rows = [_row(statement, held.pop(statement["id"], [])) for statement in _statements()]
    if held:
        raise ValueError(f"no such statements: {sorted(held)}")
    return HEAD + "\n".join(rows) + "\n"


def tests() -> dict[str, list[str]]:
    """Statement to the tests that hold it."""
    found: dict[str, list[str]] = defaultdict(list)
    for case in BROKEN:
        found[case.statement].append(
            f"cases: {case.what}" if isinstance(case.sent, bytes) else f"cases, written: {case.what}"
        )
    modules = [path for path in sorted(TESTS.rglob("test_*.py")) if MARK in path.read_text()]
    for path in sorted(modules, key=lambda path: not path.stem.startswith(PURE)):
        name = ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
        for statement, test in _marked(importlib.import_module(name)):
            found[statement].append(f"{path.stem}.{test}")
    return dict(found)


def _marked(module: ModuleType) -> list[tuple[str, str]]:
    return [
        (statement, name)
        for name, test in vars(module).items()
        for mark in getattr(test, "pytestmark", ())
        if mark.name == "statement"
        for statement in mark.args
    ]


def _statements() -> list[dict[str, Any]]:
    sections = tomllib.loads((Path(FOLDER) / "mqtt5_normative_statements.toml").read_text())["sections"]
    return [statement for section in sections.values() for statement in section.get("statements", ())]


def _row(statement: dict[str, Any], held: list[str]) -> str:
    name = statement["id"]
    if name in NOT_OURS:
        held = [*held, f"*{NOT_OURS[name]}*"]
    elif not held and statement["applies_to"] == "Client":
        held = ["*a client's*"]
    elif all(test.startswith(PURE) for test in held) and (
        not held or name in PARTLY or any(test.startswith(ASKED) for test in held)
    ):
        raise ValueError(f"no test of the door holds {name}: {statement['text']}")
    cells = (name, statement["level"], statement["applies_to"], "; ".join(held))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    TABLE.write_text(table())
    sys.stdout.write(f"{TABLE}\n")
