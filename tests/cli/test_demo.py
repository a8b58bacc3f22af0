"""The demo tells the truth: its data, its parts, and the whole of it."""

import csv
import io
import re
import time
from datetime import date
from pathlib import Path

import pytest

from broker.cli.app import main
from broker.cli.demo import daemon as demo_daemon
from broker.cli.demo.journey import prices
from broker.cli.demo.readers import Receiver, Worker
from broker.cli.demo.screen import STEPS, Screen
from broker.connectors.webhook.signing import parse_secret, sign

ROOT = Path(__file__).parent.parent.parent
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_sample_is_well_formed_and_the_same_in_both_places() -> None:
    assert prices() == (ROOT / "config" / "demo-prices.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(prices().decode())))
    assert len(rows) == 50
    assert {row["ticker"] for row in rows} == {"TSLA", "FB", "TWTR", "AAPL"}
    assert all(date.fromisoformat(row["date"]).weekday() < 5 for row in rows)
    assert all(re.fullmatch(r"\d+\.\d\d", row["close"]) and row["currency"] == "USD" for row in rows)
    assert len({(row["ticker"], row["date"]) for row in rows}) == 50


def test_the_worker_works_out_the_change_per_ticker() -> None:
    worker = Worker("http://127.0.0.1:1", "q", 0)
    for ticker, close in (("A", "10.00"), ("B", "5.00"), ("A", "11.00")):
        worker._work({"ticker": ticker, "date": "2010-06-29", "close": close})
    assert (worker.taken, worker.said) == (3, "A 2010-06-29 11.00 (+10.0 %)")


def test_the_receiver_refuses_once_then_checks_each_signature() -> None:
    receiver = Receiver(SECRET)
    try:
        now = int(time.time())
        signature = sign([parse_secret(SECRET)], "m1", now, b"{}")
        headers = {"webhook-id": "m1", "webhook-timestamp": str(now), "webhook-signature": signature}
        assert receiver.answer(headers, b"{}") == 503
        assert receiver.answer(headers, b"{}") == 204
        assert receiver.answer(headers, b"{ }") == 401
        assert receiver.answer({}, b"{}") == 401
        assert (receiver.accepted, receiver.false, receiver.refused) == ({"m1"}, 2, 1)
    finally:
        receiver._server.server_close()


def test_the_screen_prints_each_step_once_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    with screen.watching():
        screen.tell("publish", "1 of 2", done=False)
        screen.tell("publish", "2 of [2]", done=True)
        screen.tell("publish", "2 of [2]", done=True)
    assert capsys.readouterr().out.splitlines() == [f"  1 publish   {STEPS['publish']:26} 2 of [2]"]


@pytest.mark.system
def test_the_whole_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    steps = [line.split()[1] for line in out.splitlines() if re.match(r"  [1-5] ", line)]
    assert sorted(steps, key=list(STEPS).index) == list(STEPS)
    assert "50 of 50 rows" in out
    assert "worker 50, reader 50, webhook 50" in out
    assert "100 of 100" in out
    confirmed = re.search(r"4 publishers at work, ([\d,]+) messages confirmed", out)
    assert confirmed
    assert f"✓ All {confirmed[1]} are in the log" in out
    assert "Nothing confirmed is lost" in out
    folder = re.search(r"data in (/\S+)/data,", out)
    assert folder
    assert not Path(folder[1]).exists()


@pytest.mark.system
def test_a_daemon_that_does_not_start_is_told_with_its_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_daemon, "CONFIG", "[http]\nprot = 0\n")
    assert main(["demo"]) == 1
    err = capsys.readouterr().err
    assert "The daemon did not start" in err
    assert "prot" in err
