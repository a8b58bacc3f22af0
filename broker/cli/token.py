"""`postroom token …`: what programs prove with who they are. Floor 7."""

from typing import Annotated, Any

import typer

from broker.cli.api import Api, name_path
from broker.cli.errors import FailedError
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, YesOption, confirm, remark, show, show_one
from broker.cli.principal import NameArgument, OnlyArgument, principals

app = typer.Typer(no_args_is_help=True, help="Tokens: create, list, revoke. For admins.")


@app.command()
def create(
    name: NameArgument,
    lifetime: Annotated[str | None, typer.Option(help="How long it lasts, such as 90d; else until revoked.")] = None,
    grant: Annotated[
        list[str] | None, typer.Option(metavar="GRANT", help="Also allow this, such as 'publish orders/#'.")
    ] = None,
    output: OutputOption = Format.TABLE,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Make a token for a principal, who need not be there before, and print it: this once.

    Example: postroom token create billing --grant 'publish orders/#' --grant 'consume subscription:billing'
    """
    with Api(url) as api:
        for text in grant or ():
            api.post(name_path("principals", name, "grants"), {"grant": text})
        made = api.post(name_path("principals", name, "tokens"), {"lifetime": lifetime} if lifetime else None)
        grants = api.get(name_path("principals", name))["grants"]
    if output is Format.TABLE:
        typer.echo(made["token"])
    else:
        show_one(made, output)
    remark(f"It is shown this once. {name} may: {', '.join(grants) or 'nothing yet'}")
    if not grants:
        remark(f"Allow something by: postroom grant add {name} publish 'orders/#'")


@app.command("ls")
def list_(name: OnlyArgument = None, output: OutputOption = Format.TABLE, url: UrlOption = DEFAULT_URL) -> None:
    """List tokens, without their secrets."""
    with Api(url) as api:
        rows = [{"principal": p["name"], **token} for p in principals(api, name) for token in p["tokens"]]
    empty = "No token; make one: postroom token create NAME"
    show(rows, ("principal", "id", "created_at", "expires_at"), output, empty)


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="What stands between the first and the second _.")],
    yes: YesOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """End a token now; connections that it opened are closed."""
    with Api(url) as api:
        confirm(f"Revoke token {token_id} of {_owner(api, token_id)}?", yes)
        api.delete(name_path("tokens", token_id))
    remark(f"{token_id} revoked")


def _owner(api: Api, token_id: str) -> Any:
    for principal in principals(api):
        if any(token["id"] == token_id for token in principal["tokens"]):
            return principal["name"]
    raise FailedError(f"There is no token {token_id}.", "postroom token ls")
