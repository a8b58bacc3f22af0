"""`postroom status`: is the daemon well, and its numbers. Exits with 1 when it is not well. Floor 7."""

from typing import Any

import typer

from broker.cli.api import Api
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, remark, show_one

WELL = "running"


def status(output: OutputOption = Format.TABLE, url: UrlOption = DEFAULT_URL) -> None:
    """State of the daemon: running, disk_low or failed, with the reason, its numbers, and which limits are felt now."""
    with Api(url) as api:
        values = api.get("/v1/status")
    felt = values.get("limits", {}).get("in_force", [])
    if output is Format.TABLE:
        show_one(flat(used(values) | {"limits": {**values.get("limits", {}), "in_force": len(felt)}}), output)
    else:
        show_one(values, output)
    for problem in values.get("not_taken_up", []):
        remark(f"Not taken up by the last reload: {problem}")
    for each in felt:
        remark(f"Limited: {each['detail']} (for {each['seconds']:g} s, {each['times']} times)")
    if values.get("state", WELL) != WELL:
        remark(f"Not well: {values.get('reason') or values['state']}")
        raise typer.Exit(1)


def used(values: dict[str, Any]) -> dict[str, Any]:
    """Without doors that nobody uses, and without what is told apart."""
    idle = {name for name in ("mqtt",) if not any(values.get(name, {}).values())}
    return {name: value for name, value in values.items() if name not in idle | {"not_taken_up"}}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested maps as dotted names, so that each number has its line."""
    lines: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            lines |= flat(value, f"{prefix}{name}.")
        else:
            lines[f"{prefix}{name}"] = value
    return lines
