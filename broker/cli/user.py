"""`postroom user …`: principals and their passwords, for people and MQTT clients. Floor 7."""

import sys

import typer

from broker.cli.api import Api, name_path
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, YesOption, confirm, remark, show
from broker.cli.principal import NameArgument, principals

app = typer.Typer(no_args_is_help=True, help="Users: set a password, list, remove. For admins.")


@app.command("set")
def set_(name: NameArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Give a principal a password, or another one: asked for here, or the first line of standard input.

    Example: pass show ann | postroom user set ann
    """
    password = _password(name)
    with Api(url) as api:
        api.put(name_path("principals", name, "password"), {"password": password})
        grants = api.get(name_path("principals", name))["grants"]
    remark(f"{name} has this password now, and may: {', '.join(grants) or 'nothing yet'}")


def _password(name: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


@app.command("ls")
def list_(output: OutputOption = Format.TABLE, url: UrlOption = DEFAULT_URL) -> None:
    """List all principals: whether they have a password, how many tokens, what they may do."""
    with Api(url) as api:
        rows = [p | {"tokens": len(p["tokens"])} for p in principals(api)]
    show(rows, ("name", "password", "tokens", "grants"), output, "Nobody yet; make a token: postroom token create NAME")


@app.command()
def rm(name: NameArgument, yes: YesOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Remove a principal with its password, tokens and grants; its connections are closed."""
    with Api(url) as api:
        found = api.get(name_path("principals", name))
        confirm(f"Remove {name} with {len(found['tokens'])} tokens and {len(found['grants'])} grants?", yes)
        api.delete(name_path("principals", name))
    remark(f"{name} removed")
