"""Every verb against a real daemon: what it prints, what it changes, how it exits."""

import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import monotonic, sleep
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.cli.api import Api, name_path
from broker.cli.app import main
from broker.cli.demo.daemon import Daemon
from broker.cli.status import used
from broker.cli.tail import follow
from broker.connectors.webhook.signing import parse_secret, verify

pytestmark = pytest.mark.system

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line against the daemon; returns exit code, stdout, stderr."""
    monkeypatch.setenv("POSTROOM_HTTP_URL", daemon.url)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def api(daemon: Daemon) -> Iterator[Api]:
    it = Api(daemon.url)
    yield it
    it.close()


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Make this the standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_the_address_may_stand_before_the_verb_or_behind_it(
    run: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTROOM_HTTP_URL", "http://127.0.0.1:1")
    assert run("status", "--url", daemon.url)[0] == 0
    assert run("--url", daemon.url, "status")[0] == 0
    assert run("--url", daemon.url, "status", "--url", "http://127.0.0.1:1")[0] == 1


def test_publish_and_read_back_with_everything_set(run: Run) -> None:
    options = ["--key", "kü", "--id", "one", "-H", "Trace=a=b", "--priority", "7", "--ttl", "1h"]
    code, out, _ = run("pub", "full/a", '{"n": 1}', *options)
    assert code == 0
    assert out.startswith("on disk: offset ")
    assert out.endswith(", id one\n")
    code, out, _ = run("sub", "full/#", "--from", "earliest", "-n", "1", "-o", "ndjson")
    (message,) = lines(out)
    wanted = {"id": "one", "key": "kü", "topic": "full/a", "priority": 7, "body": {"n": 1}}
    assert {name: message[name] for name in wanted} == wanted
    assert message["headers"] == {"trace": "a=b"}
    assert message["content_type"] == "application/json"
    assert message["expires_at"]


def test_the_same_id_is_told(run: Run) -> None:
    first = lines(run("pub", "twice", "x", "--id", "same", "-o", "ndjson")[1])[0]
    code, out, _ = run("pub", "twice", "x", "--id", "same")
    assert (code, out) == (0, f"already there: id same, offset {first['offset']}\n")


def test_scheduled_messages_are_listed_and_cancelled(run: Run) -> None:
    run("pub", "reminders", "x", "--delay", "2h", "--id", "r1")
    code, out, _ = run("schedule", "ls", "-o", "ndjson")
    assert code == 0
    assert "r1" in [row["id"] for row in lines(out)]
    assert run("schedule", "cancel", "r1")[0] == 0
    assert "r1" not in [row["id"] for row in lines(run("schedule", "ls", "-o", "ndjson")[1])]
    code, _, err = run("schedule", "cancel", "r1")
    assert (code, "no message 'r1' waits" in err) == (1, True)


def test_connections_are_listed_and_one_is_closed(run: Run, api: Api) -> None:
    api.get("/livez")  # opens a connection that is kept
    code, out, _ = run("connections", "ls", "-o", "ndjson")
    assert code == 0
    ours, *_ = [row for row in lines(out) if row["door"] == "http"]
    assert {"id", "address", "port", "principal", "since"} <= set(ours)
    assert run("connections", "kick", ours["id"])[0] == 0
    assert ours["id"] not in [row["id"] for row in lines(run("connections", "ls", "-o", "ndjson")[1])]
    code, _, err = run("connections", "kick", ours["id"])
    assert (code, "no connection" in err) == (1, True)


@pytest.fixture
def device(daemon: Daemon) -> None:
    """An MQTT client that left: its session is kept, two messages wait for it, and something is retained."""
    client = paho.Client(CallbackAPIVersion.VERSION2, "oven/7", protocol=paho.MQTTv5)
    host, _, port = daemon.mqtt.rpartition(":")
    connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    connect.SessionExpiryInterval = 60
    client.connect(host, int(port), properties=connect)
    client.loop_start()
    client.subscribe("plant/#", 1)
    client.subscribe("$share/g/jobs", 1)
    for topic in ("plant/a", "plant b/"):
        client.publish(topic, "hot", 1, retain=True).wait_for_publish(5)
    client.disconnect()
    client.loop_stop()


@pytest.mark.usefixtures("device")
def test_mqtt_clients_are_listed_shown_and_forgotten(run: Run) -> None:
    def rows(*options: str) -> list[Any]:
        return lines(run("mqtt", "clients", *options, "-o", "ndjson")[1])

    (row,) = rows("--prefix", "oven", "--state", "away", "--principal", "local", "-n", "1")
    assert (row["client"], row["filters"]) == ("oven/7", 2)
    assert not rows("--slow")
    assert "oven/7" in run("mqtt", "clients")[1]
    assert "$share/g/jobs (0 waiting)" in run("mqtt", "client", "oven/7")[1]
    code, _, err = run("mqtt", "kick", "oven/7")
    assert (code, "--forget" in err) == (1, True)
    code, _, err = run("mqtt", "kick", "oven/7", "--forget")
    assert (code, "messages wait" in err) == (2, True)
    assert run("mqtt", "kick", "oven/7", "--forget", "--yes")[0] == 0
    assert not rows("--prefix", "oven")
    assert run("mqtt", "client", "oven/7")[0] == 1


@pytest.mark.usefixtures("device")
def test_retained_messages_are_listed_and_deleted(run: Run) -> None:
    assert [row["topic"] for row in lines(run("mqtt", "retained", "ls", "-o", "ndjson")[1])] == ["plant b/", "plant/a"]
    assert "plant/a" in run("mqtt", "retained", "ls", "plant/+")[1]
    assert run("mqtt", "retained", "rm", "plant b/")[0] == 2
    assert "1 deleted" in run("mqtt", "retained", "rm", "plant b/", "--yes")[2]
    assert "1 deleted" in run("mqtt", "retained", "rm", "plant/#", "--yes")[2]
    assert "Nothing is retained" in run("mqtt", "retained", "ls")[2]


def test_long_lists_are_read_to_their_end(api: Api) -> None:
    for i in range(5):
        api.put(name_path("subscriptions", f"page-{i}"), {"topics": [f"page/{i}"]})
    asked: list[Any] = []
    get = api.get
    api.get = lambda path, **query: asked.append(query) or get(path, **query, limit=2)  # type: ignore[method-assign,func-returns-value]
    names = [row["name"] for row in api.pages("/v1/subscriptions", "subscriptions")]
    assert [name for name in names if name.startswith("page-")] == [f"page-{i}" for i in range(5)]
    assert len(asked) > 2
    assert len(set(names)) == len(names)
    for i in range(5):
        api.delete(name_path("subscriptions", f"page-{i}"))


def test_a_delayed_message_is_told_with_its_time(run: Run) -> None:
    code, out, _ = run("pub", "later", "x", "--delay", "1h", "--id", "l1")
    assert code == 0
    assert out.startswith("scheduled: id l1, due 20")


def test_count(run: Run) -> None:
    code, out, _ = run("pub", "many", "x", "--count", "25")
    assert code == 0
    assert out.startswith("25 messages on disk, topic many, the last at offset ")
    assert len(lines(run("pub", "many", "x", "--count", "3", "-o", "ndjson")[1])) == 3
    assert len(json.loads(run("pub", "many", "x", "--count", "2", "-o", "json")[1])) == 2


def test_standard_input_whole_and_by_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"\xff\x00\n")
    assert run("pub", "input/whole", "-")[0] == 0
    feed(monkeypatch, b'{"n": 1}\r\n\n{"n": 2}\nplain')
    assert run("pub", "input/lines", "--lines")[1].startswith("3 messages on disk")
    whole = lines(run("sub", "input/whole", "--from", "earliest", "-n", "1", "-o", "ndjson")[1])
    assert whole[0]["body_base64"] == "/wAK"
    each = lines(run("sub", "input/lines", "--from", "earliest", "-n", "3", "-o", "ndjson")[1])
    assert [message["body"] for message in each] == [{"n": 1}, {"n": 2}, "plain"]


def test_a_file_tells_its_type(run: Run, tmp_path: Any) -> None:
    file = tmp_path / "a.xml"
    file.write_text("<a/>")
    assert run("pub", "files", "--file", str(file))[0] == 0
    (message,) = lines(run("sub", "files", "--from", "earliest", "-n", "1", "-o", "ndjson")[1])
    assert message["content_type"] in ("application/xml", "text/xml")


def test_what_was_confirmed_before_a_refusal_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"a\nb\n" + b"x" * (1 << 20) + b"x\n")
    code, _, err = run("pub", "refused", "--lines")
    assert code == 1
    assert err.splitlines()[0] == "2 confirmed before this:"
    assert "1048577 bytes" in err


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (["pub", "a/+", "x"], "holds a wildcard", "postroom topic ls"),
        (["pub", "", "x"], "The topic is empty", ""),
        (["pub", "$dead/x", "x"], "broker's own", ""),
        (["pub", "a", "x", "--delay", "soon"], "'soon' is no duration", ""),
        (["sub", "a/#/b"], "'#' must be the whole last level", "postroom sub 'orders/#'"),
        (["sub", "a", "--from", "yesterday"], "'yesterday'", "postroom sub '#' --from earliest"),
        (["queue", "info", "nope"], "'nope'", "postroom queue ls"),
        (["queue", "peek", "nope"], "'nope'", "postroom queue ls"),
        (["queue", "purge", "nope", "--yes"], "'nope'", "postroom queue ls"),
        (["queue", "redrive", "nope"], "'nope'", "postroom queue ls"),
        (["queue", "create", "bad name", "-t", "a"], "is no name", ""),
        (["queue", "create", "q", "-t", "a", "--lease", "1ms"], "100ms", ""),
    ],
)
def test_refusals_are_sentences_and_exit_with_1(arguments: list[str], says: str, hint: str, run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert says in err
    assert f"Try: {hint}" in err if hint else "Try:" not in err


def test_the_life_of_a_queue(run: Run) -> None:
    options = ("--ordered", "--max-attempts", "3", "--max-messages", "9", "--overflow", "block")
    code, _, err = run("queue", "create", "life", "-t", "life/+", "-t", "more", *options)
    assert (code, err) == (0, "life takes life/+, more; look at it with: postroom queue info life\n")
    run("pub", "life/a", "first", "--key", "k")
    run("pub", "more", "second")
    (row,) = [row for row in lines(run("queue", "ls", "-o", "ndjson")[1]) if row["name"] == "life"]
    assert (row["ready"], row["topics"], row["ordered"], row["retry"]["max_attempts"]) == (
        2,
        ["life/+", "more"],
        True,
        3,
    )
    assert (row["max_messages"], row["overflow"]) == (9, "block")
    table = run("queue", "peek", "life")[1].splitlines()
    assert table[0].split() == ["offset", "published", "topic", "key", "body"]
    assert table[1].split()[2:] == ["life/a", "k", "first"]
    assert [m["body"] for m in lines(run("queue", "peek", "life", "-n", "1", "-o", "ndjson")[1])] == ["first"]
    assert run("queue", "pause", "life")[0] == 0
    assert json.loads(run("queue", "info", "life", "-o", "json")[1])["paused"] is True
    assert run("queue", "resume", "life")[0] == 0
    assert json.loads(run("queue", "info", "life", "-o", "json")[1])["paused"] is False
    assert run("queue", "purge", "life", "--yes")[2] == "2 messages purged from life\n"
    assert run("queue", "purge", "life")[2] == "Nothing waits in life.\n"
    assert run("queue", "rm", "life", "--yes")[2] == "life removed\n"
    assert run("queue", "info", "life")[0] == 1


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_destructive_verbs_tell_the_count_and_ask(
    answer: str, code: int, run: Run, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    api.put(name_path("subscriptions", "asked"), {"topics": ["asked"]})
    run("pub", "asked", "x", "-n", "3")
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    ended, _, err = run("queue", "purge", "asked")
    assert ended == code
    assert "Purge 3 waiting messages of queue asked?" in err
    left = api.get(name_path("subscriptions", "asked"))["ready"]
    assert left == (3 if code else 0)
    api.delete(name_path("subscriptions", "asked"))


def test_dead_letters_are_put_back(run: Run, api: Api) -> None:
    run("queue", "create", "mortal", "-t", "mortal")
    run("pub", "mortal", "x", "-n", "7")
    path = name_path("queues", "mortal", "receive")
    taken = api.post(path, max=10, wait="2s")["messages"]
    settles = [{"receipt": message["receipt"], "outcome": "reject"} for message in taken]
    api.post(name_path("queues", "mortal", "settle"), settles)
    assert len(taken) == 7
    assert run("queue", "redrive", "mortal", "--limit", "3")[2] == "3 dead letters put back into mortal\n"
    assert run("queue", "redrive", "mortal")[2] == "4 dead letters put back into mortal\n"
    assert run("queue", "redrive", "mortal")[2] == "mortal has no dead letters.\n"
    assert json.loads(run("queue", "info", "mortal", "-o", "json")[1])["ready"] == 7


def test_dead_letters_are_deleted(run: Run, api: Api) -> None:
    run("queue", "create", "buried", "-t", "buried")
    run("pub", "buried", "x", "-n", "3")
    taken = api.post(name_path("queues", "buried", "receive"), max=2, wait="2s")["messages"]
    settles = [{"receipt": message["receipt"], "outcome": "reject"} for message in taken]
    api.post(name_path("queues", "buried", "settle"), settles)
    assert run("queue", "purge", "buried", "--dead", "--yes")[2] == "2 dead letters of buried deleted\n"
    assert run("queue", "purge", "buried", "--dead", "--yes")[2] == "buried has no dead letters.\n"
    info = json.loads(run("queue", "info", "buried", "-o", "json")[1])
    assert (info["ready"], info["dead_letters"]) == (1, 0)


def test_a_receiver_can_learn_the_secret_of_its_webhooks(run: Run) -> None:
    asked: list[tuple[dict[str, str], bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        receiver.timeout = 20
        url = f"http://127.0.0.1:{receiver.server_address[1]}/"
        err = run("queue", "create", "hook", "-t", "hooked", "--webhook", url)[2]
        assert err.endswith("the receiver checks them by: postroom queue secret hook\n")
        run("pub", "hooked", "x")
        receiver.handle_request()
    code, secret, err = run("queue", "secret", "hook")
    ((headers, body),) = asked
    at = headers["webhook-timestamp"]
    verify([parse_secret(secret.strip())], headers["webhook-id"], at, headers["webhook-signature"], body, int(at))
    assert (code, err) == (0, "")
    run("queue", "rm", "hook", "--yes")


def test_a_queue_without_webhook_has_no_secret(run: Run) -> None:
    run("queue", "create", "plain", "-t", "plain")
    code, out, err = run("queue", "secret", "plain")
    assert (code, out) == (1, "")
    assert "plain has no webhook" in err


def test_topics(run: Run) -> None:
    run("pub", "counted", "12345", "--content-type", "text/plain", "-n", "2")
    (row,) = [row for row in json.loads(run("topic", "ls", "-o", "json")[1]) if row["name"] == "counted"]
    assert row["messages"] == 2
    assert any(line.split()[0] == "counted" for line in run("topic", "ls")[1].splitlines())


def test_status(run: Run) -> None:
    code, out, _ = run("status")
    assert code == 0
    assert {tuple(line.split()[:2]) for line in out.splitlines()} >= {("state", "running")}
    assert json.loads(run("status", "-o", "json")[1])["state"] == "running"


def test_check_config(run: Run, daemon: Daemon, tmp_path: Any) -> None:
    assert run("check-config", "--config", str(daemon.config))[0] == 0
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[http]\nprot = 1\n")
    code, out, err = run("check-config", "--config", str(wrong))
    assert code == 1
    assert "prot" in out + err


def test_bench_measures_and_cleans_up(run: Run, daemon: Daemon, api: Api) -> None:
    code, out, err = run(
        "bench", "--native", daemon.native, "-n", "300", "-w", "1", "-w", "64", "--body", "32", "-o", "json"
    )
    assert (code, err) == (0, "")
    one, many = json.loads(out)
    assert (one["in_flight"], many["in_flight"], one["messages"]) == (1, 64, 300)
    assert all(value > 0 for row in (one, many) for value in row.values())
    assert one["confirm_p50_ms"] <= one["confirm_p99_ms"]
    assert not [s for s in api.get("/v1/subscriptions")["subscriptions"] if s["name"].startswith("bench-")]
    benched = [t for t in api.get("/v1/topics")["topics"] if t["name"].startswith("bench/")]
    assert [t["messages"] for t in benched] == [300, 300]


def test_bench_on_the_wrong_port_says_so(run: Run, daemon: Daemon) -> None:
    code, _, err = run("bench", "--native", daemon.url.removeprefix("http://"), "-n", "1")
    assert code == 1
    assert "closed the connection" in err


def test_following_goes_on_after_kill_9_without_gap_or_repeat(tmp_path: Any) -> None:
    daemon = Daemon(tmp_path)
    daemon.start()
    seen: list[str] = []
    reader = threading.Thread(target=collect, args=(daemon.url, seen))
    reader.start()
    sent, deadline = 0, monotonic() + 10
    while not seen:  # the reader asks for what comes from now on, whenever that is
        sent += publish(daemon.url, f"before-{sent}")
        assert monotonic() < deadline
    until(lambda: seen[-1] == f"before-{sent - 1}")
    daemon.kill()
    port = daemon.url.rpartition(":")[2]
    daemon.config.write_text(daemon.config.read_text().replace("[http]\nport = 0", f"[http]\nport = {port}"))
    daemon.start()
    publish(daemon.url, "after")
    publish(daemon.url, "end")
    reader.join(15)
    daemon.stop()
    assert not reader.is_alive()
    assert seen == [f"before-{n}" for n in range(sent - len(seen) + 2, sent)] + ["after", "end"]


def collect(url: str, seen: list[str]) -> None:
    with Api(url) as api, closing(follow(api, "followed", "latest", sleep=lambda _: sleep(0.01))) as messages:
        for message in messages:
            seen.append(message["body"])
            if message["body"] == "end":
                return


def publish(url: str, body: str) -> int:
    with Api(url) as api:
        api.request("POST", "/v1/topics/followed/messages", body.encode(), {"Content-Type": "text/plain"})
    return 1


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


def test_status_says_what_a_reload_did_not_take_up(run: Run, daemon: Daemon) -> None:
    good = daemon.config.read_text()
    daemon.config.write_text(good + '[log]\nlevel = "shout"\n')
    os.kill(daemon.pid, signal.SIGHUP)
    try:
        said = _until_status(run, lambda err: "Not taken up by the last reload: log.level: " in err)
    finally:
        daemon.config.write_text(good)
        os.kill(daemon.pid, signal.SIGHUP)
    assert "'shout'" in said
    _until_status(run, lambda err: "Not taken up" not in err)


def _until_status(run: Run, wanted: Callable[[str], bool]) -> str:
    """What `postroom status` remarks, once it is as wanted."""
    end = monotonic() + 10
    while not wanted(err := run("status")[2]):
        assert monotonic() < end, err
        sleep(0.02)
    return err


def test_status_leaves_out_a_door_that_nobody_uses() -> None:
    idle = {"state": "running", "mqtt": {"sessions": 0, "wills": 0}, "not_taken_up": []}
    assert used(idle) == {"state": "running"}
    busy = idle | {"mqtt": {"sessions": 1, "wills": 0}}
    assert used(busy) == {"state": "running", "mqtt": {"sessions": 1, "wills": 0}}
