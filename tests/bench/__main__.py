"""`make bench`: how fast the daemon is, beside the bare prototype and the brokers that are installed.

Raw drivers on both sides, so that servers are measured and not their Python clients; `client` alone measures ours.
Every server is started anew for every measurement, on an empty folder, and ended by its id. Ratios within a run count,
not absolutes: machines differ, and the same machine differs by the hour.
"""

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from tests.bench import machine, report
from tests.bench.peers.installed import NAMES, chosen
from tests.bench.plan import QUICK, Plan, Scenario
from tests.bench.progress import Progress
from tests.bench.report import Told
from tests.bench.runner import keys_of, run
from tests.bench.scenarios import (
    backlog,
    client,
    fsync,
    http,
    idle_subscriptions,
    latency,
    mqtt,
    streams,
    topics,
    window,
)

WIDTH = 140
"""Columns of a table that no terminal shows."""
SCENARIOS: dict[str, Callable[[Plan], Scenario]] = {
    "window": window.scenario,
    "topics": topics.scenario,
    "client": client.scenario,
    "idle-subscriptions": idle_subscriptions.scenario,
    "backlog": backlog.scenario,
    "fsync": fsync.scenario,
    "latency": latency.scenario,
    "streams": streams.scenario,
    "http": http.scenario,
    "mqtt": mqtt.scenario,
}
NEEDS = {"http": "wrk"}
"""Programs without which a scenario is left out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 when something could not be measured; a goal that is missed is told, and no error."""
    options = _parser().parse_args(arguments)
    try:
        peers, missing = chosen(options.peers)
    except ValueError as error:
        sys.exit(f"--peers: {error}")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # both end what was started
    plan = Plan(options.runs or (1 if options.quick else 5), options.quick, peers)
    notes = [f"{peer.name} is left out, not installed: {peer.missing()}" for peer in missing]
    if options.quick:
        notes.append(f"quick: {QUICK} times fewer messages than for figures that count; verdicts are hints")
    if machine.busy():
        notes.append("others are using this machine: expect noise")
    lacking = [name for name in options.scenario if name in NEEDS and shutil.which(NEEDS[name]) is None]
    notes += [f"{name} is left out, {NEEDS[name]} is not installed" for name in lacking]
    scenarios = [SCENARIOS[name](plan) for name in options.scenario if name not in lacking]
    return _measure(scenarios, plan, options, notes)


def _measure(scenarios: Sequence[Scenario], plan: Plan, options: argparse.Namespace, notes: list[str]) -> int:
    head = machine.description(options.folder)
    if options.output != "json":
        print("; ".join(f"{name}: {value}" for name, value in head.items()), *notes, sep="\n", flush=True)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    progress = Progress([key for scenario in scenarios for key in keys_of(scenario, plan.runs)])
    told = []
    for scenario in scenarios:
        results = run(scenario, plan.runs, options.folder, progress)
        told.append(Told(scenario.name, scenario.tell(results), results))
        if options.output == "table":
            report.show(console, told[-1])
        elif options.output == "markdown":
            print(f"\n{report.markdown(told[-1])}", flush=True)
    if options.output == "json":
        print(report.as_json({"machine": head, "notes": notes, "count": plan.runs}, told))
    return 1 if any(one.results.failures for one in told) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one run, few messages: does it work, roughly how fast?")
    parser.add_argument("--runs", type=_positive, help="of each measurement, in turn (default 5; with --quick 1)")
    parser.add_argument(
        "--scenario",
        nargs="+",
        choices=list(SCENARIOS),
        default=list(SCENARIOS),
        metavar="NAME",
        help=_names(SCENARIOS),
    )
    parser.add_argument("--peers", nargs="+", default=["all"], metavar="NAME", help=f"all, none, or {_names(NAMES)}")
    parser.add_argument("-o", "--output", choices=["table", "json", "markdown"], default="table")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: for temporary files)")
    return parser


def _names(names: Sequence[str] | dict[str, Callable[[Plan], Scenario]]) -> str:
    return ", ".join(names)


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; every server was ended")
