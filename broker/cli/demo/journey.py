"""The first half of the demo: a file of real prices goes through the five steps, and each is counted. Floor 7."""

import secrets
from base64 import b64encode
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from broker.cli.api import Api, name_path
from broker.cli.demo.daemon import Daemon
from broker.cli.demo.readers import Reader, Receiver, Worker, start
from broker.cli.demo.screen import STEPS, Screen
from broker.cli.errors import FailedError

TOPIC = "prices/daily"
PACE = 0.03
"""Seconds that the worker takes per message, so that the steps can be seen apart."""
WITHIN = 20.0
QUEUE, HOOK = "price-worker", "price-webhook"


def prices() -> bytes:
    """The sample file that comes with the package."""
    return files("broker.cli.demo").joinpath("prices.csv").read_bytes()


@dataclass
class Cast:
    """Who takes part."""

    worker: Worker
    reader: Reader
    receiver: Receiver


def walk(daemon: Daemon, screen: Screen) -> None:
    """From the file to the last acknowledgement. Raises FailedError when it does not get there in time."""
    api = Api(daemon.url)
    rows = prices().count(b"\n") - 1
    cast = _gather(api, daemon.url)
    _drop(daemon.drop, prices())
    screen.say(f"Dropped [bold]prices.csv[/], {rows} closing prices, into {daemon.drop}")
    deadline = monotonic() + WITHIN
    with screen.watching():
        while len(screen.done) < len(STEPS):
            if monotonic() > deadline:
                raise FailedError(f"Not through after {WITHIN:g} s: {screen.counts}", f"less {daemon.log}")
            _look(api, rows, cast, screen)
            sleep(0.05)
    cast.worker.stop()
    cast.receiver.stop()
    screen.say(f"  The worker's last price: {cast.worker.said}. The file is now in drop/done/.")
    screen.say(
        f"  The webhook checked {len(cast.receiver.accepted)} signatures, answered 503 once and got that one again."
    )
    api.close()


def _gather(api: Api, url: str) -> Cast:
    secret = f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
    receiver = Receiver(secret)
    hook = {"url": receiver.url, "secret": secret}
    retry = {"initial": "200ms", "max_attempts": 5}
    api.put(name_path("subscriptions", QUEUE), {"kind": "queue", "topics": [TOPIC], "ordered": True})
    api.put(name_path("subscriptions", HOOK), {"kind": "queue", "topics": [TOPIC], "retry": retry, "webhook": hook})
    cast = Cast(Worker(url, QUEUE, PACE), Reader(url, TOPIC), receiver)
    for who in (cast.worker, cast.reader, cast.receiver):
        start(who)
    return cast


def _drop(folder: Path, content: bytes) -> None:
    # Written beside and renamed, as anyone should who leaves files for others: nobody ever sees half of it.
    half = folder / ".prices.csv.part"
    half.write_bytes(content)
    half.rename(folder / "prices.csv")


def _look(api: Api, rows: int, cast: Cast, screen: Screen) -> None:
    published = sum(t["messages"] for t in api.get("/v1/topics")["topics"] if t["name"] == TOPIC)
    status = api.get("/v1/status")
    queue, hook = (api.get(name_path("subscriptions", name)) for name in (QUEUE, HOOK))
    seen = (cast.worker.taken, cast.reader.seen, len(cast.receiver.accepted))
    acked = (queue["acked"], hook["acked"])
    screen.note = f"    {cast.worker.said}"
    for step, count, done in _steps(rows, published, status, (queue, hook), seen, acked):
        screen.tell(step, count, done)


def _steps(
    rows: int,
    published: int,
    status: dict[str, Any],
    queues: tuple[dict[str, Any], dict[str, Any]],
    seen: tuple[int, int, int],
    acked: tuple[int, int],
) -> list[tuple[str, str, bool]]:
    ready, leased = (sum(q[state] for q in queues) for state in ("ready", "leased"))
    handed, all_in = sum(acked) + leased, published >= rows
    commits, messages = status["commits"], status["committed_messages"]
    return [
        ("publish", f"{published} of {rows} rows", all_in),
        ("commit", f"{messages}, in {commits} commits so far", all_in and messages >= rows),
        ("dispatch", f"{handed} of {2 * rows}, {ready} still ready", handed >= 2 * rows),
        ("deliver", f"worker {seen[0]}, reader {seen[1]}, webhook {seen[2]}", min(seen) >= rows),
        ("settle", f"{sum(acked)} of {2 * rows}", sum(acked) >= 2 * rows),
    ]
