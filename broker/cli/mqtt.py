"""`postroom mqtt …`: MQTT's clients, sending one away, and retained messages. Floor 7."""

from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

import typer

from broker.cli.api import Api, name_path
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, YesOption, confirm, remark, show, show_one

app = typer.Typer(no_args_is_help=True, help="MQTT: clients and their sessions, retained messages.")
retained = typer.Typer(no_args_is_help=True, help="Retained messages: list, delete.")
app.add_typer(retained, name="retained")

CLIENTS = ("client", "state", "principal", "from", "version", "filters", "queued", "bytes", "in flight", "dropped")
RETAINED = ("topic", "size", "age", "expires_at", "principal")
PAGE = 1_000

ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT", help="The client's identifier.")]
FilterArgument = Annotated[str, typer.Argument(metavar="FILTER", help="A topic or topic filter.")]
CountOption = Annotated[int | None, typer.Option("-n", "--count", min=1, help="At most so many.")]


class State(StrEnum):
    """Of clients."""

    CONNECTED = "connected"
    AWAY = "away"


@app.command()
def clients(
    prefix: Annotated[str | None, typer.Option(help="Only identifiers that begin so.")] = None,
    principal: Annotated[str | None, typer.Option(help="Only clients of this principal.")] = None,
    state: Annotated[State | None, typer.Option(help="Only clients that are so.")] = None,
    slow: Annotated[bool, typer.Option("--slow", help="Only clients that do not read.")] = False,
    count: CountOption = None,
    output: OutputOption = Format.TABLE,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List clients, connected or away, by identifier: what waits for them, and what went wrong last."""
    wanted = {"prefix": prefix, "principal": principal, "state": state, "slow": "true" if slow else None}
    with Api(url) as api:
        found = api.pages("/v1/mqtt/clients", "clients", limit=min(PAGE, count or PAGE), **wanted)
        rows = islice(found, count)
        if output is not Format.TABLE:
            return show(rows, (), output, "")
        shown = [_row(row) for row in rows]
    columns = [*CLIENTS, *(["slow"] if any(row["slow"] for row in shown) else []), "last error"]
    return show(shown, columns, output, "No client is connected, and no session is kept.")


def _row(client: dict[str, Any]) -> dict[str, Any]:
    return client | {
        "from": None if client["address"] is None else f"{client['address']}:{client['port']}",
        "bytes": client["queued_bytes"],
        "in flight": client["in_flight_out"] + client["in_flight_in"],
        "last error": _trouble(client),
    }


def _trouble(client: dict[str, Any]) -> str | None:
    error = client["last_error"]
    return None if error is None else f"{error['at']} {error['detail']}"


@app.command()
def client(name: ClientArgument, output: OutputOption = Format.TABLE, url: UrlOption = DEFAULT_URL) -> None:
    """Everything about one client, with all its subscriptions."""
    with Api(url) as api:
        found = api.get(name_path("mqtt/clients", name))
    if output is Format.TABLE:
        found["subscriptions"] = [f"{each['filter']} (QoS {each['qos']})" for each in found["subscriptions"]]
        found["groups"] = [f"{each['filter']} ({each['queued']} waiting)" for each in found["groups"]]
        found["last_error"] = _trouble(found)
    show_one(found, output)


@app.command()
def kick(
    name: ClientArgument,
    forget: Annotated[bool, typer.Option("--forget", help="End its session too, with all that waits for it.")] = False,
    yes: YesOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Send a client away; it is told why and may connect again, unless its right is taken away."""
    with Api(url) as api:
        path = name_path("mqtt/clients", name)
        if forget:
            waiting = api.get(path)["queued"]
            confirm(f"End the session of {name}, for which {waiting:,} messages wait?", yes)
        api.delete(path, forget="true" if forget else None)
    remark(f"The session of {name} is over." if forget else f"{name} was told and closed.")


@retained.command("ls")
def list_retained(
    filter_: FilterArgument = "#",
    count: CountOption = None,
    output: OutputOption = Format.TABLE,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List retained messages by topic: size, age, expiry, and who published them."""
    with Api(url) as api:
        found = api.pages("/v1/mqtt/retained", "retained", limit=min(PAGE, count or PAGE), filter=filter_)
        rows = islice(found, count)
        if output is not Format.TABLE:
            return show(rows, (), output, "")
        shown = [row | {"age": _age(row["published_at"])} for row in rows]
    return show(shown, RETAINED, output, "Nothing is retained there.")


@retained.command("rm")
def delete_retained(filter_: FilterArgument, yes: YesOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Delete retained messages; subscribers are not told, and what is in the log stays."""
    with Api(url) as api:
        confirm(f"Delete what is retained in {filter_}?", yes)
        if {"+", "#"} & set(filter_):
            deleted = api.delete("/v1/mqtt/retained", filter=filter_)["deleted"]
        else:
            deleted = api.delete(name_path("mqtt/retained", filter_))["deleted"]
    remark(f"{deleted:,} deleted")


def _age(moment: str) -> str:
    """How long ago that was, in two units at most."""
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()))
    for size, unit, below, lesser in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // below}{lesser}"
    return f"{seconds}s"
