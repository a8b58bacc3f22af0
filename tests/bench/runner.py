"""Runs steps in turn, again and again, each with a loop and a folder of its own; one that fails stops no other."""

import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from tests.bench.figures import Results, Values
from tests.bench.plan import Scenario, Step
from tests.bench.progress import Progress


def keys_of(scenario: Scenario, runs: int) -> list[str]:
    """Of all measurements, in the order of `run`."""
    return [f"{scenario.name}: {step.key}" for _ in range(runs) for step in scenario.steps]


def run(scenario: Scenario, runs: int, folder: Path | None, progress: Progress) -> Results:
    """All steps once, then all again: what disturbs the machine for a while disturbs all alike."""
    results = Results()
    for number in range(1, runs + 1):
        for step in scenario.steps:
            progress.begin(f"{scenario.name}, run {number} of {runs}: {step.key}")
            try:
                values = _measured(step, folder)
            except Exception as error:
                why = _in_short(error)
                results.failures.append(f"{step.key}, run {number}: {why}")
                progress.end(f"failed: {why}")
            else:
                results.add(step.key, number, values)
                name, unit = step.shown
                progress.end(f"{values[name]:,.4g} {unit}" if values[name] < 100 else f"{values[name]:,.0f} {unit}")
    return results


def _in_short(error: Exception) -> str:
    """What went wrong, and where a process told much, its last word."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1].strip()}"


def _measured(step: Step, folder: Path | None) -> Values:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as own:

        async def measure() -> Values:
            return await step.measure(Path(own))

        coroutine: Coroutine[Any, Any, Values] = measure()
        return uvloop.run(coroutine)
