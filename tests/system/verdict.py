"""What is in the log and the queues of a daemon after a load was finished, and the judgement over it."""

from collections import defaultdict
from typing import Any

import msgpack

from tests.system.frames import Link, greeted
from tests.system.history import Judge, Logged, Name
from tests.system.load import QUEUES, Load


async def assert_every_promise_was_kept(load: Load, address: str, *, stalled: bool = False) -> None:
    """Asks the daemon for everything and judges the history by it."""
    async with greeted(address) as link:
        rows = await _log(link, "work/#", "late/#")
        dead = {queue: _dead(await _log(link, f"$dead/{queue}")) for queue in QUEUES}
    judge = Judge(load.history, [_logged(row) for row in rows], stalled=stalled)
    judge.publishing()
    judge.publishers_order()
    work = [row[0] for row in rows if row[1].startswith("work/")]
    for queue, options in QUEUES.items():
        judge.settling(queue)
        judge.ends(queue, dead[queue], load.most_attempts, work)
        if options.get("ordered"):
            judge.key_order(queue, load.most_attempts)
    assert not judge.faults, f"{len(judge.faults)} broken promises:\n" + "\n".join(judge.faults[:20])


async def _log(link: Link, *topics: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    start: str = "earliest"
    while True:
        page = await link.ask("read", topics=topics, **{"from": start}, limit=5_000)
        rows += page["rows"]
        if page["position"] == start or not page["rows"]:
            return rows
        start = page["position"]


def _logged(row: tuple[Any, ...]) -> Logged:
    offset, _, at, meta, body = row
    return Logged(offset, name_of(body), at, _meta(meta).get("key"))


def name_of(body: bytes) -> Name:
    """Bodies say who sent them and under which number."""
    publisher, _, number = body.decode().rpartition(" ")
    return publisher, int(number)


def _meta(packed: bytes | None) -> dict[str, Any]:
    meta: dict[str, Any] = msgpack.unpackb(packed[1:]) if packed else {}
    return meta


def _dead(rows: list[tuple[Any, ...]]) -> dict[int, list[int]]:
    """Original offset → how many entries the history of each of its dead letters has."""
    found: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        meta = _meta(row[3])
        found[meta["source"]["offset"]].append(len(meta["history"]))
    return found
