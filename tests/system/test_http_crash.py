"""kill -9 while batches and units are published by HTTP: each is there whole or not at all, what was answered is there,
and what was not can be sent again under its key without harm."""

import http.client
import json
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.system.door import ask, bodies
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system

ROUNDS, THREADS, ITEMS = 3, 4, 5
JSON = {"Content-Type": "application/json"}


class Publisher(threading.Thread):
    """Sends batches until nobody answers; `sent` are those that went out, the last one perhaps unanswered."""

    def __init__(self, served: Served, name: str, on_answer: Any) -> None:
        super().__init__(daemon=True)
        self._served = served
        self._batches = name
        self._on_answer = on_answer
        self.sent: list[str] = []
        self.answered = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._served.address("http"), timeout=WITHIN)
        try:
            while True:
                name = f"{self._batches}-{len(self.sent)}"
                self.sent.append(name)
                connection.request("POST", "/v1/messages", batch(name), JSON | {"Idempotency-Key": f'"{name}"'})
                response = connection.getresponse()
                response.read()
                assert response.status == 201
                self.answered += 1
                self._on_answer()
        except (OSError, http.client.HTTPException):
            pass  # it was killed
        finally:
            connection.close()


def batch(name: str) -> bytes:
    return json.dumps([{"topic": "work", "body": f"{name}/{i}"} for i in range(ITEMS)]).encode()


def test_batches_are_whole_and_survive(tmp_path: Path) -> None:
    chance = random.Random(7)
    sent: list[str] = []
    unsure: list[str] = []
    for round_ in range(ROUNDS):
        with Served(tmp_path) as served:
            served.ready()
            found = bodies(served, "work")
            assert_whole(found, sent, unsure)
            for name in unsure:  # as a client does that got no answer
                status, answer, _ = ask(
                    served, "POST", "/v1/messages", batch(name), JSON | {"Idempotency-Key": f'"{name}"'}
                )
                assert status == 201
                assert len({receipt["duplicate"] for receipt in answer["receipts"]}) == 1
            sent, unsure = sent + unsure, []
            left = [chance.randrange(20, 200)]
            enough = threading.Event()

            def count(left: list[int] = left, enough: threading.Event = enough) -> None:
                left[0] -= 1
                if left[0] <= 0:
                    enough.set()

            publishers = [Publisher(served, f"{round_}-{i}", count) for i in range(THREADS)]
            for publisher in publishers:
                publisher.start()
            assert enough.wait(WITHIN)
            served.signal(signal.SIGKILL)
            for publisher in publishers:
                publisher.join(WITHIN)
                sent += publisher.sent[: publisher.answered]
                unsure += publisher.sent[publisher.answered :]
    with Served(tmp_path) as served:
        assert_whole(bodies(served.ready(), "work"), sent, unsure)


def assert_whole(found: list[str], sent: list[str], unsure: list[str]) -> None:
    assert len(set(found)) == len(found)
    there = {name.rpartition("/")[0] for name in found}
    assert set(found) == {f"{name}/{i}" for name in there for i in range(ITEMS)}  # no batch in part
    assert set(sent) <= there <= {*sent, *unsure}


def test_a_unit_is_done_whole_or_not_at_all(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.ready()
        ask(served, "PUT", "/v1/subscriptions/jobs", b'{"topics": ["jobs"]}')
        jobs = [{"topic": "jobs", "body": i} for i in range(40)]
        assert ask(served, "POST", "/v1/messages", json.dumps(jobs).encode())[0] == 201
        done = work(served, 13)
        served.signal(signal.SIGKILL)
    assert done == 13
    with Served(tmp_path) as served:
        served.ready()
        while work(served, 10):
            pass
        results = bodies(served, "results")
        assert sorted(results) == list(range(40))
        status, value, _ = ask(served, "GET", "/v1/kv/count")
        assert (status, value) == (200, 40)


def work(served: Served, most: int) -> int:
    """Receive, and in one unit each: ack, publish the result, count; how many."""
    received = ask(served, "POST", f"/v1/queues/jobs/receive?max={most}")[1]["messages"]
    for message in received:
        status, count, headers = ask(served, "GET", "/v1/kv/count")
        revision = int(headers["ETag"].strip('"')) if status == 200 else 0
        unit = {
            "settle": [{"queue": "jobs", "receipt": message["receipt"], "outcome": "ack"}],
            "publish": [{"topic": "results", "body": message["body"]}],
            "set": [{"key": "count", "value": str((count if revision else 0) + 1), "expect": revision}],
        }
        assert ask(served, "POST", "/v1/units", json.dumps(unit).encode())[0] == 200
    return len(received)
