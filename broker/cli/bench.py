"""`postroom bench`: what this machine and this daemon do together, over the native protocol. Floor 7."""

import asyncio
from typing import Annotated, Any

import typer

from broker.cli import load
from broker.cli.errors import FailedError
from broker.cli.output import Format, OutputOption, show
from broker.cli.progress import progress

COLUMNS = (
    "in flight",
    "confirmed/s",
    "delivered+acked/s",
    "confirm p50 ms",
    "confirm p99 ms",
    "deliver p50 ms",
    "deliver p99 ms",
)


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
    show(rows, COLUMNS, output, "")


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
    confirm, deliver = result.confirm_latency, result.deliver_latency
    return {
        "in flight": result.window,
        "messages": result.messages,
        "body bytes": result.body,
        "confirmed/s": round(result.messages / result.confirmed_after),
        "delivered+acked/s": round(result.messages / result.settled_after),
        "confirm p50 ms": round(load.percentile(confirm, 0.50) * 1000, 3),
        "confirm p99 ms": round(load.percentile(confirm, 0.99) * 1000, 3),
        "deliver p50 ms": round(load.percentile(deliver, 0.50) * 1000, 3),
        "deliver p99 ms": round(load.percentile(deliver, 0.99) * 1000, 3),
    }
