"""`postroom connections ls|kick`: who is connected, and sending one away. Floor 7."""

from typing import Annotated

import typer

from broker.cli.api import Api, name_path
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, remark, show

app = typer.Typer(no_args_is_help=True, help="Connections: list, close.")

COLUMNS = ("id", "door", "from", "principal", "how", "client", "since")


@app.command("ls")
def list_(output: OutputOption = Format.TABLE, url: UrlOption = DEFAULT_URL) -> None:
    """List the open connections of all doors, this one's own too, oldest first."""
    with Api(url) as api:
        rows = list(api.pages("/v1/connections", "connections"))
    if output is Format.TABLE:
        rows = [row | {"from": f"{row['address']}:{row['port']}"} for row in rows]
    show(rows, COLUMNS, output, "Nobody is connected.")


@app.command()
def kick(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As `ls` names it.")], url: UrlOption = DEFAULT_URL
) -> None:
    """Close a connection; its client is told why and may connect again, unless its right is taken away."""
    with Api(url) as api:
        api.delete(name_path("connections", id_))
    remark(f"{id_} was told and closed.")
