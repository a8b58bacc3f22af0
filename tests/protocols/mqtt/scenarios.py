"""The table of the scenarios of Paho's interoperability suite, and the tests that restate them.

`python -m tests.protocols.mqtt.scenarios` writes SCENARIOS.md anew.
"""

import inspect
import sys
from pathlib import Path

from tests.protocols.mqtt import test_scenarios_5, test_scenarios_311

TABLE = Path(__file__).with_name("SCENARIOS.md")
SUITES = (("3.1.1", test_scenarios_311, 10), ("5.0", test_scenarios_5, 27))
"""Version, tests, and how many there are in Paho's suite."""
HEAD = """# The scenarios of Paho's interoperability suite

Made by `python -m tests.protocols.mqtt.scenarios` from `test_scenarios_311.py` and `test_scenarios_5.py`; a test
compares. Each is told in our own words under the name that it has in `client_test.py` and `client_test5.py` of
eclipse/paho.mqtt.testing (`testBasic` is `test_basic`), and runs against a daemon with the profile
`config/mqtt-conformance.toml`.

| MQTT | scenario | what it shows |
|---|---|---|
"""


def table() -> str:
    """The whole page."""
    return HEAD + "".join(
        f"| {version} | {name} | {' '.join((inspect.getdoc(test) or '').split())} |\n"
        for version, module, _ in SUITES
        for name, test in vars(module).items()
        if name.startswith("test_")
    )


if __name__ == "__main__":
    TABLE.write_text(table())
    sys.stdout.write(f"{TABLE}\n")
