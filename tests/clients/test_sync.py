"""The synchronous face, and the fixtures: a real daemon as a process."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import pytest
from postroom_client import ConnectionLost, PostroomError, ThreadMessage
from postroom_client.daemon import Daemon
from postroom_client.sync import Client, connect

pytestmark = pytest.mark.system


def test_publish_and_consume(postroom: Client) -> None:
    postroom.put_subscription("sync", "sync/#")
    receipt = postroom.publish("sync/a", {"id": 7}, key="k")
    postroom.publish_many([("sync/b", b"1"), ("sync/b", b"2")])
    with postroom.consume("sync") as messages:
        first = messages.receive(10)
        with first:
            assert (first.offset, first.data, first.key) == (receipt.offset, {"id": 7}, "k")
        second, third = next(messages), next(messages)
        with pytest.raises(ValueError, match="no good"), second:
            raise ValueError("no good")
        third.settle("ack")
        with pytest.raises(PostroomError, match="lease_lost"):
            third.ack()
        with pytest.raises(TimeoutError):
            messages.receive(0.01)
    counts = postroom.subscription("sync")
    assert (counts["acked"], counts["retried"]) == (2, 1)
    assert postroom.purge("sync") == 1


def test_streams(postroom: Client) -> None:
    postroom.put_subscription("sync-s", "stream/#", kind="stream", from_="earliest")
    postroom.publish_many([("stream/a", b"%d" % i) for i in range(3)])
    with postroom.stream(topics="stream/#", from_="earliest") as stream:
        assert [next(stream).body for _ in range(3)] == [b"0", b"1", b"2"]
        assert stream.recovered
        assert stream.position is not None
    with postroom.stream("sync-s") as stream:
        next(stream)
        stream.commit()
    for message in postroom.stream("sync-s"):
        assert message.body == b"1"
        break
    assert len(postroom.read("stream/#").messages) == 3


def test_transactions_and_keys(postroom: Client) -> None:
    with postroom.transaction() as t:
        t.publish("tx", b"1")
        t.set("sync-key", b"v")
    assert postroom.get("sync-key") is not None
    assert postroom.keys("sync-") == ["sync-key"]
    with pytest.raises(PostroomError, match="condition_failed"), postroom.transaction() as t:
        t.set("sync-key", b"w", expect=0)
    with pytest.raises(RuntimeError), postroom.transaction() as t:  # noqa: PT012
        t.publish("tx", b"never")
        raise RuntimeError
    assert len(postroom.read("tx").messages) == 1


def test_workers_and_requests(postroom: Client) -> None:
    threads = set()

    @postroom.worker("sync-w", topics="sync-w", concurrency=2)
    def double(value: int, m: ThreadMessage) -> int:
        threads.add(threading.current_thread())
        m.extend(60)
        return value * 2

    running = threading.Thread(target=postroom.run)
    running.start()
    while not [s for s in postroom.subscriptions() if s["name"] == "sync-w"]:
        pass
    assert postroom.request("sync-w", 21).data == 42
    postroom.stop()
    running.join(30)
    assert not running.is_alive()
    assert threading.main_thread() not in threads


def test_management(postroom: Client) -> None:
    postroom.put_subscription("sync-m", "sync-m")
    postroom.pause("sync-m")
    assert postroom.subscription("sync-m")["paused"]
    postroom.resume("sync-m")
    postroom.publish("sync-m", b"x")
    assert [m.body for m in postroom.peek("sync-m")] == [b"x"]
    assert postroom.redrive("sync-m") == postroom.purge_dead("sync-m") == 0
    postroom.publish("sync-m", b"", delay=3600, id="sync-later")
    assert [s["topic"] for s in postroom.scheduled()] == ["sync-m"]
    assert postroom.cancel(postroom.scheduled()[0]["id"])
    assert "sync-m" in [t["name"] for t in postroom.topics()]
    assert postroom.status()["state"] == "running"
    postroom.delete_subscription("sync-m")


def test_nobody_there() -> None:
    before = threading.active_count()
    with pytest.raises(ConnectionLost):
        connect("postroom://127.0.0.1:1", timeout=0.05)
    assert threading.active_count() == before


def test_closing_twice(postroom_server: Daemon) -> None:
    client = connect(postroom_server.url)
    client.close()
    client.close()


WORKER = """
import os, sys, time
from postroom_client import sync
with sync.connect(sys.argv[1]) as b:
    @b.worker("q", topics="q", concurrency=1, prefetch=10, max_deliveries=3)
    def work(m):
        print("begun", m.data, flush=True)
        if m.data == "poison":
            os._exit(9)
        if m.data == "slow":
            time.sleep(0.3)
    print("ready", flush=True)
    b.run()
    print("stopped", flush=True)
"""


def worker(url: str) -> "subprocess.Popen[str]":
    path = str(Path(__file__).parents[2] / "clients" / "python")
    command = [sys.executable, "-c", WORKER, url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": path})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_daemon_for_tests_says_where_its_doors_are(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon:
        assert daemon.url == f"postroom://{daemon.addresses['native']}"
        assert urlopen(f"{daemon.http_url}/livez").status == 200
        host, _, port = daemon.addresses["mqtt"].rpartition(":")
        with socket.create_connection((host, int(port))):
            pass


def test_sigterm_finishes_what_is_in_hand(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon, connect(daemon.url) as b:
        b.put_subscription("q", "q")
        b.publish_many([("q", "slow")] * 5)
        with worker(daemon.url) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun slow\n"
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=30)[0] == "stopped\n"
        assert process.returncode == 0
        counts = b.subscription("q")
        assert (counts["acked"], counts["ready"], counts["retried"], counts["leased"]) == (1, 4, 0, 0)


def test_a_message_that_kills_its_worker_is_parked_and_it_alone(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon, connect(daemon.url) as b:
        b.put_subscription("q", "q")
        b.publish_many([("q", "a"), ("q", "poison"), ("q", "b"), ("q", "c")])
        deaths = 0
        while b.subscription("q")["lag"]:
            with worker(daemon.url) as process:
                while process.poll() is None and b.subscription("q")["lag"]:
                    pass
                process.terminate()
                process.communicate(timeout=30)
            deaths += process.returncode == 9
        assert deaths == 3
        with b.stream(topics="$dead/q", from_="earliest") as dead:
            assert dead.receive(10).data == "poison"
        assert b.subscription("q")["acked"] == 3


def test_kill_9_of_the_daemon_loses_nothing_and_stores_nothing_twice(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data") as daemon, connect(daemon.url) as b:
        b.put_subscription("q", "q")
        done: list[int] = []

        def publish() -> None:
            for i in range(40):
                b.publish_many([("q", b"%d" % (i * 100 + k)) for k in range(100)])
                done.append(i)

        publisher = threading.Thread(target=publish)
        publisher.start()
        for kills in range(1, 4):
            while len(done) < kills * 8:
                assert publisher.is_alive() or len(done) == 40
            daemon.kill()
            daemon.start()
        publisher.join(60)
        assert len(done) == 40
        bodies: list[bytes] = []
        with b.consume("q") as messages:
            while len(bodies) < 4000:
                with messages.receive(30) as message:
                    bodies.append(message.body)
        assert sorted(bodies, key=int) == [b"%d" % i for i in range(4000)]


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended at once; it said:\n.*\n.*native\.port"):
        Daemon(tmp_path / "data", environment={"POSTROOM_NATIVE__PORT": "many"}).start()
