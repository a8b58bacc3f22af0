"""`postroom schedule ls|cancel`: messages that wait for their time. Floor 7."""

from typing import Annotated

import typer

from broker.cli.api import Api, name_path
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, remark, show

app = typer.Typer(no_args_is_help=True, help="Scheduled messages: list, cancel.")


@app.command("ls")
def list_(
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=10_000, help="At most so many.")] = 100,
    output: OutputOption = Format.TABLE,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List what waits for its time, soonest first."""
    with Api(url) as api:
        rows = api.get("/v1/scheduled", limit=count)["scheduled"]
    show(rows, ("id", "due", "topic"), output, "Nothing waits; schedule: postroom pub orders/remind hello --delay 1h")


@app.command()
def cancel(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As `ls` or the receipt names it.")],
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Cancel a scheduled message: it never comes."""
    with Api(url) as api:
        api.delete(name_path("scheduled", id_))
    remark(f"{id_} is cancelled.")
