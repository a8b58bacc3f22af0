"""What the shipped dashboard and alert rules ask for is what a real daemon's /metrics has; and the figures tell."""

import json
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postroom_client import PostroomError
from postroom_client.sync import connect
from prometheus_client.parser import text_string_to_metric_families

from tests.authority import Authority
from tests.system.door import ask
from tests.system.served import WITHIN, Served

pytestmark = pytest.mark.system

CONFIG = Path(__file__).parents[2] / "config"
OF_PROMETHEUS = {"up"}


def scrape(served: Served) -> tuple[set[str], dict[str, float]]:
    """Names that exist, with or without a value, and all values."""
    with urllib.request.urlopen(f"http://{served.address('http')}/metrics", timeout=WITHIN) as answer:
        text = answer.read().decode()
    names: set[str] = set()
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return names, values


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Served]:
    """With something of each part that has figures."""
    pair = Authority(tmp_path / "ca").issue("127.0.0.1")
    (tmp_path / "in").mkdir()
    config = f"""
        [native.tls]
        certificate = "{pair.certificate}"
        key = "{pair.key}"
        [queues.work]
        topics = ["work"]
        lease = "1s"
        retry = {{ schedule = ["0s", "0s"], max_attempts = 2 }}
        [queues.hook]
        topics = ["hook"]
        webhook = {{ url = "http://127.0.0.1:1/" }}
        [webhooks]
        allow = ["127.0.0.0/8"]
        [[drop]]
        path = "{tmp_path}/in"
        topic = "dropped"
        name = "in"
        poll = "100ms"
        stable_for = "0s"
        stable_checks = 1
    """
    with Served(tmp_path, config) as served:
        yield served.ready()


def expressions(found: Any) -> Iterator[str]:
    """All values under `expr` and `query`, at any depth."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name in ("expr", "query") and isinstance(value, str):
                yield value
            yield from expressions(value)
    elif isinstance(found, list):
        for value in found:
            yield from expressions(value)


def metrics_in(expression: str) -> set[str]:
    """The names that a query reads: words that are neither functions, labels nor within quotes."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\$\w+', "", expression)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"label_values\((\w+),[^)]*\)", r"\1", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    words = re.findall(r"\b[a-z_][a-z0-9_]*\b(?!\s*\()", bare)
    return {word for word in words if word not in ("and", "or", "unless", "by", "le", "prometheus", "e9")}


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist(daemon: Served) -> None:
    names, _ = scrape(daemon)
    dashboard = json.loads((CONFIG / "grafana.json").read_text())
    rules = (CONFIG / "alerts.yml").read_text()
    asked = set().union(*map(metrics_in, expressions(dashboard)))
    alerts = re.findall(r"^ +expr: (?:>-\n((?: {10}.*\n)+)|(.*))$", rules, re.MULTILINE)
    assert len(alerts) == rules.count("- alert:") > 10
    asked |= set().union(*(metrics_in(folded or plain) for folded, plain in alerts))
    assert len(asked) > 25
    assert asked - names - OF_PROMETHEUS == set()


def test_each_alert_says_what_to_do() -> None:
    for rule in (CONFIG / "alerts.yml").read_text().split("- alert:")[1:]:
        assert all(part in rule for part in ("expr:", "severity:", "summary:", "what_to_do:")), rule


def test_names_follow_the_conventions_and_each_has_a_help(daemon: Served) -> None:
    with urllib.request.urlopen(f"http://{daemon.address('http')}/metrics", timeout=WITHIN) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert re.fullmatch(r"(postroom|process)_[a-z0-9_]+", family.name)
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|kb|mb|minutes|count|sum|total)$", family.name), family.name


def test_the_figures_tell_what_happened(daemon: Served, tmp_path: Path) -> None:
    (tmp_path / "in" / "good.csv").write_text("a,b\n1,2\n")
    (tmp_path / "in" / "bad.csv").write_text("a,b\n1\n")
    with connect(f"postrooms://{daemon.address('native')}", tls=str(tmp_path / "ca" / "ca.pem")) as client:
        client.publish("hook", b"x")
        client.publish("work", b"x")
        with pytest.raises(PostroomError, match="This port speaks TLS"):
            connect(f"postroom://{daemon.address('native')}")
        ask(daemon, "POST", "/v1/queues/work/receive?wait=5s")  # and never settled: the lease runs out
        expected = {
            "postroom_subscription_leases_expired_total{subscription=work}": 1,
            "postroom_drop_files_total{feed=in,result=done}": 1,
            "postroom_drop_files_total{feed=in,result=failed}": 1,
            "postroom_drop_messages_total{feed=in}": 1,
            "postroom_webhook_attempts_total{result=failed,subscription=hook}": 1,
            "postroom_tls_failed_handshakes_total{door=native,reason=plain}": 1,
            "postroom_connections{door=native}": 1,
        }
        deadline = time.monotonic() + WITHIN
        while (found := scrape(daemon)[1]) and any(found.get(name, 0) < least for name, least in expected.items()):
            assert time.monotonic() < deadline, {name: found.get(name) for name in expected}
            time.sleep(0.1)
    assert found["postroom_fsync_seconds_count"] == found["postroom_commit_seconds_count"] > 0
    assert 0 < found["postroom_fsync_seconds_sum"] <= found["postroom_commit_seconds_sum"]
    assert found["postroom_loop_lag_seconds_count"] > 0
    assert found["postroom_tls_certificate_expiry_timestamp_seconds{door=native}"] > time.time()
    assert [name for name in found if name.startswith("postroom_build_info{")]
    shutil.rmtree(tmp_path / "in")
    while not scrape(daemon)[1]["postroom_drop_failing{feed=in}"]:
        assert time.monotonic() < deadline + WITHIN
        time.sleep(0.1)
