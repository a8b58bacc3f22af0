"""`postroom bench`: what this machine and this daemon do together, over the native protocol. Floor 7."""

import asyncio
from typing import Annotated, Any

import typer

from broker.cli import load
from broker.cli.errors import FailedError
from broker.cli.output import Format, OutputOption, show
from broker.cli.progress import progress

COLUMNS = {
    "in_flight": "in flight",
    "confirmed_per_second": "confirmed/s",
    "acked_per_second": "acked/s",
    "confirm_p50_ms": "confirm p50 ms",
    "confirm_p99_ms": "confirm p99 ms",
    "deliver_p50_ms": "deliver p50 ms",
    "deliver_p99_ms": "deliver p99 ms",
}
"""What the table shows, and how it is called there."""


def bench(
    messages: Annotated[int, typer.Option("--n", "-n", min=1, help="Messages per run.")] = 100_000,
    window: Annotated[
        list[int] | None, typer.Option("--window", "-w", min=1, help="In flight; repeat for more.")
    ] = None,
    body: Annotated[int, typer.Option("--body", min=load.STAMP, help="Bytes per body.")] = 256,
    native: Annotated[
        str, typer.Option("--native", envvar="POSTROOM_NATIVE", help="The native listener, HOST:PORT.")
    ] = "127.0.0.1:7600",
    output: OutputOption = Format.TABLE,
) -> None:
    """Publish, deliver and acknowledge under load, and print rates and latencies.

    Every message is confirmed after its fsync, delivered to one worker, and acknowledged on disk. It makes a queue of
    its own and removes it; the messages stay until retention takes them.
    """
    host, colon, port = native.rpartition(":")
    if not colon or not port.isdecimal():
        raise typer.BadParameter(f"--native {native!r}: write HOST:PORT")
    rows = [_run(host, int(port), load.Result(messages, size, body)) for size in window or [1_024]]
    if output is Format.TABLE:
        rows = [{label: row[name] for name, label in COLUMNS.items()} for row in rows]
    show(rows, list(COLUMNS.values()), output, "")


def _run(host: str, port: int, result: load.Result) -> dict[str, Any]:
    with progress(f"{result.window:,} in flight", result.messages) as advance:
        seen = 0

        def watch(received: int) -> None:
            nonlocal seen
            advance(received - seen)
            seen = received

        try:
            _loop_run(load.run(host, port, result, watch))
        except ConnectionError as error:
            raise FailedError(f"The connection to {host}:{port} broke: {error}.", "postroom status") from error
    return _row(result)


def _loop_run(main: Any) -> None:
    try:
        import uvloop
    except ImportError:  # the dependency is left out where it does not exist
        asyncio.run(main)
    else:
        uvloop.run(main)


def _row(result: load.Result) -> dict[str, Any]:
    rates = {"confirmed": result.confirmed_after, "acked": result.settled_after}
    latencies = {"confirm": result.confirm_latency, "deliver": result.deliver_latency}
    return {
        "in_flight": result.window,
        "messages": result.messages,
        "body_bytes": result.body,
        **{f"{what}_per_second": round(result.messages / seconds) for what, seconds in rates.items()},
        **{
            f"{what}_p{share}_ms": round(load.percentile(values, share / 100) * 1000, 3)
            for what, values in latencies.items()
            for share in (50, 99)
        },
    }
