"""`postroom sub`: follow what matches a filter, replaying first if asked. Floor 7.

It keeps the position of the last message shown and resumes there by itself when the connection breaks, so a restart of
the daemon loses and repeats nothing.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import Annotated, Any

import typer

from broker.cli.api import Api
from broker.cli.errors import RefusedError, UnreachableError
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, body_text, printable, remark, show

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
    with Api(url) as api, closing(follow(api, topic, start)) as messages, suppress(KeyboardInterrupt):
        if output is Format.JSON:
            show(list(_until_stopped(islice(messages, count))), (), output, "")
            return
        for message in islice(messages, count):
            print(_line(message) if output is Format.TABLE else json.dumps(message, ensure_ascii=False), flush=True)


def _until_stopped(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    with suppress(KeyboardInterrupt):
        yield from messages


def follow(
    api: Api, topic: str, start: str, sleep: Callable[[float], None] = time.sleep
) -> Generator[dict[str, Any], None, None]:
    """Messages without end, over as many connections as it takes. Raises RefusedError, and UnreachableError when not
    even the first connection stands."""
    last: str | None = None
    failures = 0
    connected = False
    while True:
        try:
            for event in api.events("/v1/stream", last=last, topic=topic, **{"from": start}):
                connected, failures, last = True, 0, event.id
                if event.name == "message":
                    yield event.data
                elif event.name == "start" and not event.data["recovered"]:
                    remark(f"What you asked for is no longer in the log; this begins after {event.id}.")
        except UnreachableError:
            if not connected:
                raise
        except RefusedError as error:
            if not connected or error.status != 503:  # shutting down, or we read too slowly
                raise
        if not failures:
            remark(f"Connection lost; resuming after {last} …")
        sleep(PAUSES[min(failures, len(PAUSES) - 1)])
        failures += 1


def _line(message: dict[str, Any]) -> str:
    key = f" [{printable(message['key'])}]" if message.get("key") else ""
    return (
        f"{message['offset']:>8}  {message['published_at']}  {printable(message['topic'])}{key}  {body_text(message)}"
    )
