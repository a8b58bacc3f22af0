"""`postroom pub`: one message, the same one many times, or one per line. Floor 7.

Each is a request that is answered after the commit, and the next waits for it: what is printed is on disk, in order.
For hundreds of thousands a second there is the native protocol.
"""

import json
import mimetypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from broker.cli.api import Api, topic_path
from broker.cli.errors import FailedError
from broker.cli.output import DEFAULT_URL, Format, OutputOption, UrlOption, cell, remark
from broker.cli.progress import progress


def pub(
    topic: Annotated[str, typer.Argument(help="Where to, such as orders/created.")],
    body: Annotated[str | None, typer.Argument(help="The body; - or nothing reads standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the body from a file.", dir_okay=False)
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of the input is a message (NDJSON).")] = False,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Messages of one key keep their order.")] = None,
    message_id: Annotated[str | None, typer.Option("--id", help="The same id is stored once.")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="NAME=VALUE, any number.")] = None,
    delay: Annotated[str | None, typer.Option("--delay", help="Hold back for 30s, 5m, 2h …")] = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="Worthless after 30s, 5m, 2h …")] = None,
    priority: Annotated[int | None, typer.Option("--priority", min=0, max=9, help="9 goes first.")] = None,
    content_type: Annotated[str | None, typer.Option("--content-type", help="Guessed when not given.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Publish it so many times.")] = 1,
    output: OutputOption = Format.TABLE,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Publish a message; when this returns it is on disk.

    Examples: postroom pub orders/created '{"id": 7}'  ·  postroom pub prices/import --lines --file prices.ndjson
    """
    if message_id and (count > 1 or lines):
        raise typer.BadParameter("--id names one message; leave it out with --count and --lines")
    if body is not None and file is not None:
        raise typer.BadParameter("give either a body or --file")
    if lines and count > 1:
        raise typer.BadParameter("give either --lines or --count")
    options = {"Key": key, "Id": message_id, "Delay": delay, "Ttl": ttl, "Priority": priority}
    headers = {f"Postroom-{name}": str(value) for name, value in options.items() if value is not None}
    headers |= _header_fields(header or [])
    if bad := next((name for name, value in headers.items() if not value.isprintable()), None):
        raise typer.BadParameter(f"{bad} holds a control character or line end")
    bodies: Iterator[bytes] | list[bytes]
    if lines:
        bodies, total = _lines(body, file), None
    else:
        bodies, total = [_body(body, file)] * count, count
    with Api(url) as api:
        _publish_all(api, topic, bodies, headers, content_type or _file_type(file, lines), total, output)


def _publish_all(
    api: Api,
    topic: str,
    bodies: Iterator[bytes] | list[bytes],
    headers: dict[str, str],
    content_type: str | None,
    total: int | None,
    output: Format,
) -> None:
    path = topic_path(topic)
    receipts, done, receipt = [], 0, {}
    try:
        with progress(f"publishing to {topic}", total) as advance:
            for payload in bodies:
                fields = headers | {"Content-Type": content_type or guess_type(payload)}
                receipt = api.request("POST", path, payload, fields)
                done += 1
                advance()
                if output is Format.NDJSON:
                    print(json.dumps(receipt), flush=total != 1)
                elif output is Format.JSON:
                    receipts.append(receipt)
    except FailedError:
        if done:
            remark(f"{done:,} confirmed before this:")
        raise
    if output is Format.JSON:
        print(json.dumps(receipts[0] if total == 1 else receipts, indent=2))
    elif output is Format.TABLE:
        print(_summary(topic, done, receipt))


def _summary(topic: str, done: int, receipt: dict[str, Any]) -> str:
    if done != 1:
        last = f", the last at offset {receipt['offset']:,}" if receipt.get("offset") is not None else ""
        return f"{done:,} messages on disk, topic {topic}{last}"
    if receipt.get("duplicate"):
        return f"already there: id {receipt['id']}, offset {cell(receipt.get('offset'))}"
    if receipt.get("due") is not None:
        return f"scheduled: id {receipt.get('id')}, due {receipt['due']}"
    if receipt.get("offset") is None:
        return f"passed on to who listens now: topic {topic} is kept in memory alone"
    return f"on disk: offset {receipt['offset']:,}, id {receipt['id']}"


def _header_fields(given: list[str]) -> dict[str, str]:
    fields = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"--header {text!r}: write NAME=VALUE")
        fields[f"Postroom-Header-{name.strip()}"] = value
    return fields


def _body(body: str | None, file: Path | None) -> bytes:
    if body is not None and body != "-":
        return body.encode()
    with _input(file) as stream:
        return stream.read()


def _lines(body: str | None, file: Path | None) -> Iterator[bytes]:
    if body not in (None, "-"):
        raise typer.BadParameter("--lines reads standard input or --file, not a body")
    with _input(file) as stream:
        for line in stream:
            if text := line.rstrip(b"\r\n"):
                yield text


def _input(file: Path | None) -> AbstractContextManager[BinaryIO]:
    if file is not None:
        try:
            return file.open("rb")
        except OSError as error:
            raise FailedError(f"{file} cannot be read: {error.strerror}.") from error
    if sys.stdin.isatty():
        remark("Reading standard input; end it with Ctrl-D.")
    return nullcontext(sys.stdin.buffer)


def _file_type(file: Path | None, lines: bool) -> str | None:
    return mimetypes.guess_type(file.name)[0] if file is not None and not lines else None


def guess_type(body: bytes) -> str:
    """`application/json` for a JSON object or array, `text/plain` for other UTF-8, else `application/octet-stream`."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    if text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(text)
            return "application/json"
        except ValueError:
            pass
    return "text/plain; charset=utf-8"
