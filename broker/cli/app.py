"""The `postroom` command: its verbs on one screen, and how each may end. Floor 7.

Exit codes: 0 done, 1 it could not be done (the reason and the next command are on standard error), 2 wrong usage.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from broker import __version__
from broker.cli import (
    backup,
    bench,
    connections,
    grant,
    mqtt,
    publish,
    queue,
    schedule,
    serve,
    status,
    tail,
    token,
    topic,
    user,
)
from broker.cli.demo.story import demo
from broker.cli.errors import FailedError
from broker.cli.output import remark

app = typer.Typer(
    name="postroom",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="A message broker: durable queues, streams, MQTT, webhooks and drop folders from one fsynced log.",
)
app.command()(serve.serve)
app.command("check-config")(serve.check_config)
app.command()(backup.backup)
app.command()(status.status)
app.command()(publish.pub)
app.command()(tail.sub)
app.add_typer(queue.app, name="queue")
app.add_typer(topic.app, name="topic")
app.add_typer(schedule.app, name="schedule")
app.add_typer(connections.app, name="connections")
app.add_typer(mqtt.app, name="mqtt")
app.add_typer(token.app, name="token")
app.add_typer(grant.app, name="grant")
app.add_typer(user.app, name="user")
app.command()(bench.bench)
app.command()(demo)


def _version(asked: bool) -> None:
    if asked:
        print(f"postroom {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(  # noqa: ARG001  its callback does it
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
    ca: Path | None = typer.Option(
        None, "--ca", envvar="POSTROOM_CA", help="A PEM file of the authorities to trust in https:// addresses."
    ),
    cert: Path | None = typer.Option(
        None, "--cert", envvar="POSTROOM_CERT", help="A PEM file with a certificate and its key, to show who you are."
    ),
    show: str | None = typer.Option(
        None, "--token", envvar="POSTROOM_TOKEN", show_envvar=True, help="Who you are; better in a file than here."
    ),
    token_file: Path | None = typer.Option(
        None, "--token-file", envvar="POSTROOM_TOKEN_FILE", help="A file with a token."
    ),
    url: str | None = typer.Option(None, "--url", help="The daemon's HTTP address; it may stand behind the verb too."),
) -> None:
    for name, value in (("CA", ca), ("CERT", cert), ("TOKEN", show), ("TOKEN_FILE", token_file), ("HTTP_URL", url)):
        if value is not None:
            os.environ[f"POSTROOM_{name}"] = str(value)  # where `api` and `credential` look


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; None: this process's) and return the exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="postroom")
    except FailedError as error:
        remark(error.text + (f"\nTry: {error.hint}" if error.hint else ""))
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0
