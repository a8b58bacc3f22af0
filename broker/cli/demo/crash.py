"""The second half of the demo: kill -9 while messages are being confirmed, start again, and count. Floor 7."""

import json
import threading
from dataclasses import dataclass, field
from itertools import count
from time import sleep

from broker.cli.api import Api, name_path, topic_path
from broker.cli.demo.daemon import Daemon
from broker.cli.demo.journey import HOOK, QUEUE
from broker.cli.demo.screen import Screen
from broker.cli.errors import FailedError, UnreachableError

TOPIC = "trades/demo"
UNDER_LOAD = 0.7
"""Seconds of publishing before the kill."""
TRADERS = 4
PAGE = 500


@dataclass
class Publisher:
    """Publishes numbered messages one after the other until the connection breaks; keeps what was confirmed."""

    url: str
    name: str
    confirmed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Until the daemon is gone."""
        api = Api(self.url)
        try:
            for number in count(1):
                headers = {"Content-Type": "application/json", "Postroom-Id": f"{self.name}-{number}"}
                body = json.dumps({"trader": self.name, "number": number}).encode()
                self.confirmed.append(api.request("POST", topic_path(TOPIC), body, headers)["id"])
        except UnreachableError:
            pass
        finally:
            api.close()


def survive(daemon: Daemon, screen: Screen) -> None:
    """Kill under load, restart, compare. Raises FailedError when a confirmed message is missing or a settled one is
    back."""
    confirmed = _kill_under_load(daemon, screen)
    took = daemon.start()
    screen.say(f"Started again as {daemon.pid}, serving after {took:.1f} s.")
    api = Api(daemon.url)
    found = _all_ids(api)
    missing = confirmed - found
    if missing or not confirmed:
        raise FailedError(f"{len(missing)} of {len(confirmed)} confirmed messages are missing: a fault of Postroom.")
    extra = len(found) - len(confirmed)
    more = f", and {extra} more whose answer was cut off" if extra else ""
    screen.say(f"[green]✓[/] All {len(confirmed):,} are in the log{more}.")
    back = sum(_unsettled(api, name) for name in (QUEUE, HOOK))
    if back:
        raise FailedError(f"{back} settled messages came back: a fault of Postroom.")
    screen.say("[green]✓[/] Every price that was acknowledged is still settled. Nothing confirmed is lost.")
    api.close()


def _kill_under_load(daemon: Daemon, screen: Screen) -> set[str]:
    publishers = [Publisher(daemon.url, f"trader-{number}") for number in range(1, TRADERS + 1)]
    threads = [threading.Thread(target=publisher.run, daemon=True) for publisher in publishers]
    for thread in threads:
        thread.start()
    sleep(UNDER_LOAD)
    pid = daemon.pid
    daemon.kill()
    for thread in threads:
        thread.join(5)
    confirmed = {message_id for publisher in publishers for message_id in publisher.confirmed}
    load = f"{TRADERS} publishers at work, {len(confirmed):,} messages confirmed"
    screen.say(f"[bold]kill -9[/] {pid}, with {load}.")
    return confirmed


def _unsettled(api: Api, name: str) -> int:
    found = api.get(name_path("subscriptions", name))
    return int(found["ready"] + found["leased"] + found["delayed"] + found["blocked"])


def _all_ids(api: Api) -> set[str]:
    found: set[str] = set()
    position = "earliest"
    while page := api.request("GET", topic_path(TOPIC), query={"from": position, "limit": PAGE}):
        found |= {message["id"] for message in page["messages"]}
        if len(page["messages"]) < PAGE:
            break
        position = page["next"]
    return found
