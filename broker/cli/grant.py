"""`postroom grant …`: who may do what. Floor 7."""

from typing import Annotated

import typer

from broker.cli.api import Api, name_path
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, YesOption, confirm, remark, show
from broker.cli.principal import NameArgument, OnlyArgument, principals

app = typer.Typer(no_args_is_help=True, help="Grants: add, list, remove. For admins.")

VerbArgument = Annotated[str, typer.Argument(metavar="VERB", help="publish, consume, manage or admin.")]
ResourceArgument = Annotated[
    str, typer.Argument(metavar="RESOURCE", help="A topic filter, subscription:NAME or key:KEY; not with admin.")
]


@app.command()
def add(name: NameArgument, verb: VerbArgument, resource: ResourceArgument = "", url: UrlOption = DEFAULT_URL) -> None:
    """Allow a principal something; it need not be there before.

    In a topic filter %u stands for the principal's name, %c for the identifier of an MQTT client.

    Examples: postroom grant add billing publish 'orders/#'; postroom grant add ann admin
    """
    with Api(url) as api:
        found = api.post(name_path("principals", name, "grants"), {"grant": f"{verb} {resource}"})
    remark(f"{name} may: {', '.join(found['grants'])}")


@app.command("ls")
def list_(name: OnlyArgument = None, output: OutputOption = Format.TABLE, url: UrlOption = DEFAULT_URL) -> None:
    """List who may do what."""
    with Api(url) as api:
        rows = [{"principal": p["name"], "grant": grant} for p in principals(api, name) for grant in p["grants"]]
    show(rows, ("principal", "grant"), output, "No grant; add one: postroom grant add NAME publish 'orders/#'")


@app.command()
def rm(
    name: NameArgument,
    verb: VerbArgument,
    resource: ResourceArgument = "",
    yes: YesOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Take a grant back; readers that it alone allowed are ended at once."""
    grant = f"{verb} {resource}".strip()
    with Api(url) as api:
        confirm(f"Take {grant!r} back from {name}?", yes)
        api.delete(name_path("principals", name, "grants"), grant=grant)
    remark(f"{name} may no longer {grant}")
