"""What the verbs about principals have in common: asking the daemon for them. Floor 7."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from broker.cli.api import Api, name_path

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The principal's name.")]
OnlyArgument = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of this principal alone.")]


def principals(api: Api, name: str | None = None) -> Iterator[dict[str, Any]]:
    """One, or all of them, page by page."""
    if name is not None:
        yield api.get(name_path("principals", name))
        return
    after: str | None = None
    while True:
        page = api.get("/v1/principals", after=after)
        yield from page["principals"]
        after = page["next"]
        if after is None:
            return
