"""`postroom topic ls`: which topics the log holds. Floor 7."""

import typer

from broker.cli.api import Api
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, show

app = typer.Typer(no_args_is_help=True, help="Topics.")


@app.command("ls")
def list_(output: OutputOption = Format.TABLE, url: UrlOption = DEFAULT_URL) -> None:
    """List topics with their messages and bytes still in the log."""
    with Api(url) as api:
        rows = list(api.pages("/v1/topics", "topics"))
    show(rows, ("name", "messages", "bytes"), output, "No topic yet; publish: postroom pub orders/created hello")


@app.callback()
def _group() -> None:
    """Keep `ls` a verb although it is the only one."""
