"""`postroom sub`: follow what matches a filter, replaying first if asked. Floor 7.

It keeps the position of the last message shown and resumes there by itself when the connection breaks, so a restart of
the daemon loses and repeats nothing.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from broker.cli.api import Api
from broker.cli.errors import RefusedError, UnreachableError
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, body_text, moment, printable, remark

PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between attempts to connect again; the last one repeats."""


def sub(
    topic: Annotated[str, typer.Argument(metavar="FILTER", help="A topic or a filter: orders/+, 'prices/#'.")],
    start: Annotated[
        str, typer.Option("--from", help="earliest, latest, an offset, a position or a time 2026-11-23T09:00:00Z.")
    ] = "latest",
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="Stop after so many.")] = None,
    output: OutputOption = Format.TABLE,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Follow messages as they are committed; Ctrl-C ends it.

    Example: postroom sub 'prices/#' --from earliest -n 10
    """
    messages = follow(Api(url), topic, start)
    shown: list[dict[str, Any]] = []
    try:
        for number, message in enumerate(messages, 1):
            if output is Format.JSON:
                shown.append(message)
            else:
                print(_line(message) if output is Format.TABLE else json.dumps(message, ensure_ascii=False), flush=True)
            if number == count:
                break
    except KeyboardInterrupt:
        pass
    if output is Format.JSON:
        print(json.dumps(shown, indent=2, ensure_ascii=False))


def follow(api: Api, topic: str, start: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[dict[str, Any]]:
    """Messages without end, over as many connections as it takes. Raises RefusedError, and UnreachableError when not
    even the first connection stands."""
    last: str | None = None
    failures = 0
    connected = False
    while True:
        try:
            for position, message in api.events("/v1/stream", last=last, topic=topic, **{"from": start}):
                connected, failures = True, 0
                last = position or last
                yield message
            connected = True  # the server ended an open stream
        except UnreachableError:
            if not connected:
                raise
        except RefusedError as error:
            if not connected or error.status != 503:  # shutting down, or we read too slowly
                raise
        remark(f"Connection lost; resuming {'after ' + last if last else 'from ' + start} …")
        sleep(PAUSES[min(failures, len(PAUSES) - 1)])
        failures += 1


def _line(message: dict[str, Any]) -> str:
    key = f" [{printable(message['key'])}]" if message.get("key") else ""
    return (
        f"{message['offset']:>8}  {moment(message['published_at'])}  {printable(message['topic'])}{key}  "
        f"{body_text(message)}"
    )
