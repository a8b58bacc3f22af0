"""The second half of the demo: kill -9 while messages are being confirmed, start again, and count. Floor 7."""

import json
import threading
from dataclasses import dataclass, field
from time import sleep

from broker.cli.api import Api, topic_path
from broker.cli.demo.daemon import Daemon
from broker.cli.demo.screen import Screen
from broker.cli.errors import FailedError, UnreachableError

TOPIC = "trades/demo"
UNDER_LOAD = 0.7
"""Seconds of publishing before the kill."""
PAGE = 500


@dataclass
class Publisher:
    """Publishes numbered messages one after the other until the connection breaks; keeps what was confirmed."""

    url: str
    confirmed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Until the daemon is gone."""
        api = Api(self.url)
        number = 0
        try:
            while True:
                number += 1
                headers = {"Content-Type": "application/json", "Postroom-Id": f"trade-{number}"}
                body = json.dumps({"number": number}).encode()
                self.confirmed.append(api.request("POST", topic_path(TOPIC), body, headers)["id"])
        except UnreachableError:
            pass
        finally:
            api.close()


def survive(daemon: Daemon, screen: Screen) -> None:
    """Kill under load, restart, compare. Raises FailedError when a confirmed message is missing."""
    publisher = Publisher(daemon.url)
    thread = threading.Thread(target=publisher.run, daemon=True)
    thread.start()
    sleep(UNDER_LOAD)
    pid = daemon.pid
    daemon.kill()
    thread.join(5)
    screen.say(f"[bold]kill -9[/] {pid}, while publishing: {len(publisher.confirmed):,} messages were confirmed.")
    took = daemon.start()
    screen.say(f"Started again as {daemon.pid}, serving after {took:.1f} s.")
    found = _all_ids(Api(daemon.url))
    missing = set(publisher.confirmed) - found
    if missing or not publisher.confirmed:
        raise FailedError(f"{len(missing)} confirmed messages are missing: a fault of Postroom; please report it.")
    extra = len(found) - len(publisher.confirmed)
    more = f" and {extra} more, on disk when the answer was cut off" if extra else ""
    screen.say(f"[green]✓[/] All {len(publisher.confirmed):,} are in the log{more}. Nothing confirmed is lost.")


def _all_ids(api: Api) -> set[str]:
    found: set[str] = set()
    position = "earliest"
    while page := api.request("GET", topic_path(TOPIC), query={"from": position, "limit": PAGE}):
        found |= {message["id"] for message in page["messages"]}
        if len(page["messages"]) < PAGE:
            break
        position = page["next"]
    api.close()
    return found
