"""`postroom queue …`: look at queues and act on them. Floor 7.

What cannot be undone says how many messages it touches and asks first.
"""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from broker.cli.api import Api, name_path
from broker.cli.output import (
    DEFAULT_URL,
    Format,
    OutputOption,
    UrlOption,
    YesOption,
    body_text,
    confirm,
    remark,
    show,
    show_one,
)
from broker.cli.progress import progress
from broker.core.subscription import Overflow

app = typer.Typer(no_args_is_help=True, help="Queues: list, look into, pause, purge, redrive, create, remove.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The queue's name.")]
COLUMNS = ("name", "kind", "topics", "ready", "leased", "delayed", "consumers", "dead_letters", "paused")
DEAD_STEP = 500
"""Dead letters per request, so that progress can be told."""


@app.command("ls")
def list_(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Streams too.")] = False,
    output: OutputOption = Format.TABLE,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List queues and what waits in them."""
    with Api(url) as api:
        rows = list(api.pages("/v1/subscriptions", "subscriptions"))
    wanted = [row for row in rows if everything or row["kind"] == "queue"]
    empty = "No queue yet; make one: postroom queue create NAME --topic FILTER"
    show(wanted, COLUMNS if everything else [c for c in COLUMNS if c != "kind"], output, empty)


@app.command()
def info(name: NameArgument, output: OutputOption = Format.TABLE, url: UrlOption = DEFAULT_URL) -> None:
    """Everything about one queue: settings and counts."""
    with Api(url) as api:
        show_one(api.get(name_path("subscriptions", name)), output)


@app.command()
def peek(
    name: NameArgument,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="At most so many.")] = 10,
    output: OutputOption = Format.TABLE,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Look at the oldest waiting messages without taking them."""
    with Api(url) as api:
        messages = api.get(name_path("queues", name, "peek"), limit=count)["messages"]
    if output is not Format.TABLE:
        return show(messages, (), output, "")
    rows = [m | {"published": m["published_at"], "body": body_text(m)} for m in messages]
    return show(rows, ("offset", "published", "topic", "key", "body"), output, "Nothing waits in this queue.")


@app.command()
def pause(name: NameArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Stop handing out; publishing goes on. Survives a restart."""
    with Api(url) as api:
        api.post(name_path("queues", name, "pause"))
    remark(f"{name} is paused; go on with: postroom queue resume {name}")


@app.command()
def resume(name: NameArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Hand out again."""
    with Api(url) as api:
        api.post(name_path("queues", name, "resume"))
    remark(f"{name} hands out again")


@app.command()
def purge(
    name: NameArgument,
    dead: Annotated[bool, typer.Option("--dead", help="Delete its dead letters instead.")] = False,
    yes: YesOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Settle everything that waits and is not leased; nobody will be given it."""
    if dead:
        return _purge_dead(name, yes, url)
    with Api(url) as api:
        waiting = _waiting(api.get(name_path("subscriptions", name)))
        if not waiting:
            return remark(f"Nothing waits in {name}.")
        confirm(f"Purge {waiting:,} waiting messages of queue {name}?", yes)
        count = api.post(name_path("queues", name, "purge"))["count"]
    return remark(f"{count:,} messages purged from {name}")


def _purge_dead(name: str, yes: bool, url: str) -> None:
    with Api(url) as api:
        total = _dead(api, name)
        if not total:
            return remark(f"{name} has no dead letters.")
        confirm(f"Delete {total:,} dead letters of queue {name}?", yes)
        with progress(f"purging dead letters of {name}", total) as advance:
            done = _in_steps(api, name_path("queues", name, "purge-dead"), total, advance)
    return remark(f"{done:,} dead letters of {name} deleted")


def _waiting(info: dict[str, Any]) -> int:
    return sum(int(info.get(state) or 0) for state in ("ready", "delayed", "blocked"))


@app.command()
def redrive(
    name: NameArgument,
    limit: Annotated[int | None, typer.Option("-n", "--limit", min=1, help="At most so many, oldest first.")] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Put dead letters of this queue back into it."""
    with Api(url) as api:
        done = _redrive(api, name, limit)
    remark(f"{done:,} dead letters put back into {name}" if done else f"{name} has no dead letters.")


def _redrive(api: Api, name: str, limit: int | None) -> int:
    dead = _dead(api, name)
    total = dead if limit is None else min(limit, dead)
    with progress(f"redriving {name}", total) as advance:
        return _in_steps(api, name_path("queues", name, "redrive"), total, advance)


def _in_steps(api: Api, path: str, total: int, advance: Callable[[int], None]) -> int:
    """At least once, so that a name that is no queue is refused. What dies again meanwhile is not chased."""
    done = 0
    while True:
        step = max(1, min(DEAD_STEP, total - done))
        count: int = api.post(path, limit=step)["count"]
        done += count
        advance(count)
        if count < step or done >= total:
            return done


def _dead(api: Api, name: str) -> int:
    return int(api.get(name_path("subscriptions", name)).get("dead_letters") or 0)


@app.command()
def create(
    name: NameArgument,
    topic: Annotated[list[str], typer.Option("--topic", "-t", help="A topic filter; any number.")],
    start: Annotated[str | None, typer.Option("--from", help="earliest, an offset, a time …; else from now.")] = None,
    lease: Annotated[str | None, typer.Option(help="A worker's time per message: 30s, 5m …")] = None,
    max_attempts: Annotated[int | None, typer.Option(min=1, help="Then it is a dead letter.")] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="One after the other for messages of one key.")] = False,
    fair: Annotated[bool, typer.Option("--fair", help="Keys take turns.")] = False,
    single_active: Annotated[bool, typer.Option("--single-active", help="One consumer at a time.")] = False,
    max_messages: Annotated[int | None, typer.Option(min=1, help="Cap of what may wait.")] = None,
    overflow: Annotated[
        Overflow | None, typer.Option(help="At its cap: refuse publishers, let them wait first, or drop the oldest.")
    ] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Post each message there.")] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Create a queue, or give it these settings; what is not given gets its default."""
    given: dict[str, Any] = {
        "from": start,
        "lease": lease,
        "retry": {"max_attempts": max_attempts} if max_attempts else None,
        "ordered": ordered or None,
        "fair": fair or None,
        "single_active": single_active or None,
        "max_messages": max_messages,
        "overflow": overflow.value if overflow else None,
        "webhook": {"url": webhook} if webhook else None,
    }
    options = {option: value for option, value in given.items() if value is not None}
    with Api(url) as api:
        api.put(name_path("subscriptions", name), {"kind": "queue", "topics": topic} | options)
    remark(f"{name} takes {', '.join(topic)}; look at it with: postroom queue info {name}")
    if webhook:
        remark(f"Its webhooks are signed; the receiver checks them by: postroom queue secret {name}")


@app.command()
def secret(name: NameArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Print the secret that this queue's webhooks are signed with, for their receiver."""
    with Api(url) as api:
        typer.echo(api.get(f"{name_path('subscriptions', name)}/secret")["secret"])


@app.command()
def rm(name: NameArgument, yes: YesOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Remove a queue and its progress; messages stay in the log."""
    with Api(url) as api:
        found = api.get(name_path("subscriptions", name))
        outstanding = _waiting(found) + int(found.get("leased") or 0)
        confirm(f"Remove queue {name} with {outstanding:,} unsettled messages?", yes)
        api.delete(name_path("subscriptions", name))
    remark(f"{name} removed")
