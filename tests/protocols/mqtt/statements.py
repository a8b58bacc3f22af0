"""The table of MQTT 5.0's normative statements: which test holds each, and which await the server.

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
CODEC = ("test_rules",)
ASKED = ("test_fitting", "test_outbound", "test_inbound", "test_aliases")
"""Where tests carry the marker `statement`; what is held only when the door asks for it awaits a test of it."""
DOOR = tuple(f"test_{part}" for part in ("live", "kept", "retained", "wills", "shared", "bounds", "rights"))
"""Where the running door is tested, and its tests carry the marker."""
PARTLY = frozenset(
    f"MQTT-{number}"
    for number in (
        *("2.2.1-4", "2.2.1-5", "3.1.2-2", "3.1.3-3", "3.1.4-6", "3.3.2-18", "3.9.3-1", "3.11.3-1", "4.12.0-5"),
        "6.0.0-2",
    )
)
"""Held by the codec as far as bytes go: the server is to choose the identifier, send the CONNACK, forward in order."""
HEAD = """# The 251 normative statements of MQTT 5.0

Made by `python -m tests.protocols.mqtt.statements`; a test compares. `test_rules` breaks each of the codec's
statements, as `cases.py` lists, or carries its mark; `test_live`, `test_kept` and others try the running door. *Its
rest awaits a test of the door*: the codec and the flow do their part, that the door does its own is not tried by name.
*Awaits a test of the door*: no test carries its name. *A client's*: it binds clients alone, and is neither ours to keep
nor to check.

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
    for name in CODEC + ASKED + DOOR:
        for statement, test in _marked(importlib.import_module(f"tests.protocols.mqtt.{name}")):
            found[statement].append(f"{name}.{test}")
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
    partly = statement["id"] in PARTLY or any(test.startswith(ASKED) for test in held)
    if partly and not any(test.startswith(DOOR) for test in held):
        held = [*held, "*its rest awaits a test of the door*"]
    elif not held:
        held = ["*a client's*" if statement["applies_to"] == "Client" else "*awaits a test of the door*"]
    cells = (statement["id"], statement["level"], statement["applies_to"], "; ".join(held))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    TABLE.write_text(table())
    sys.stdout.write(f"{TABLE}\n")
