"""Metrics: names, sums, bounds."""

from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker.core.spec import parse_spec
from broker.engine.base import Stats, SubscriptionInfo
from broker.observe import metrics
from broker.observe.metrics import EngineCollector, Histogram, RequestCollector, registry


def stats(**extra: Any) -> Stats:
    return Stats(
        state="disk_low",
        reason="",
        epoch="e",
        next_offset=8,
        commits=7,
        committed_messages=7,
        pending_units=0,
        pending_bytes=0,
        cache_bytes=1,
        file_bytes=2,
        wal_bytes=3,
        disk_free_bytes=4,
        scheduled=5,
        subscriptions=0,
        last_commit_seconds=0.25,
        extra=extra,
    )


@dataclass
class Numbers:
    values: Stats = field(default_factory=stats)
    infos: list[SubscriptionInfo] = field(default_factory=list)

    def read(self) -> dict[str, float]:
        collector = EngineCollector(lambda: self.values, lambda: self.infos, lambda: 1_000.0)
        return samples(registry(collector))


def samples(of: CollectorRegistry) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(generate_latest(of).decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def info(name: str, **numbers: Any) -> SubscriptionInfo:
    return SubscriptionInfo(parse_spec(name, {"topics": ["a"]}), **numbers)


def test_the_engine_in_numbers() -> None:
    read = Numbers().read()
    assert read["postroom_commits_total"] == 7
    assert read["postroom_wal_bytes"] == 3
    assert read["postroom_last_commit_seconds"] == 0.25
    assert (read["postroom_state{state=disk_low}"], read["postroom_state{state=running}"]) == (1, 0)
    assert read["process_resident_memory_bytes"] > 0


def test_subscriptions_in_numbers() -> None:
    read = Numbers(infos=[info("q", ready=3, acked=9, oldest_at=990_000), info("r")]).read()
    assert read["postroom_subscriptions"] == 2
    assert read["postroom_subscription_ready{subscription=q}"] == 3
    assert read["postroom_subscription_acked_total{subscription=q}"] == 9
    assert read["postroom_subscription_oldest_seconds{subscription=q}"] == 10
    assert read["postroom_subscription_oldest_seconds{subscription=r}"] == 0


def test_labels_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(metrics, "MAX_LABELLED", 2)
    infos = [info(f"q{i}", ready=1, acked=2, oldest_at=i * 1_000) for i in range(10)]
    read = Numbers(infos=infos).read()
    series = [name for name in read if name.startswith("postroom_subscription_ready")]
    assert len(series) == 3
    assert read["postroom_subscription_ready{subscription=(others)}"] == 8
    assert read["postroom_subscription_acked_total{subscription=(others)}"] == 16
    assert read["postroom_subscription_oldest_seconds{subscription=(others)}"] == 998


def test_what_an_engine_says_beside_becomes_a_metric() -> None:
    seconds = Histogram()
    for value in (0.0001, 0.0002, 0.3, 60.0):
        seconds.observe(value)
    read = Numbers(stats(commit_seconds=seconds, readers=3, version="x")).read()
    assert read["postroom_commit_seconds_bucket{le=0.0001}"] == 1
    assert read["postroom_commit_seconds_bucket{le=0.00025}"] == 2
    assert read["postroom_commit_seconds_bucket{le=10.0}"] == 3
    assert read["postroom_commit_seconds_bucket{le=+Inf}"] == 4
    assert read["postroom_commit_seconds_count"] == 4
    assert read["postroom_commit_seconds_sum"] == 60.3003
    assert read["postroom_readers"] == 3
    assert not any("version" in name for name in read if name.startswith("postroom"))


def test_requests_of_a_door() -> None:
    collector = RequestCollector("http", {"connections": ("Open", lambda: 5)})
    collector.count("publish", 201, 0.002)
    collector.count("publish", 201, 0.004)
    collector.count("publish", 413, 0.001)
    read = samples(registry(collector))
    assert read["postroom_http_requests_total{route=publish,status=201}"] == 2
    assert read["postroom_http_requests_total{route=publish,status=413}"] == 1
    assert read["postroom_http_request_seconds_count{route=publish}"] == 3
    assert read["postroom_http_connections"] == 5
