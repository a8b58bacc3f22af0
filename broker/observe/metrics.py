"""Metrics for Prometheus: read from the engine when somebody asks, so that nothing is counted on a message's path.

It decides the names (`postroom_…`) and bounds the labels: at most MAX_LABELLED subscriptions have series of their own,
the others are summed under one name. Who asks, and over which door, is left to others. Floor 1.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

MAX_LABELLED = 1_000
OTHERS = "(others)"
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of buckets for durations."""
STATES = ("running", "disk_low", "failed")

_GAUGES = (
    ("next_offset", "Offset that the next message gets"),
    ("pending_units", "Units that wait for their commit"),
    ("pending_bytes", "Bytes that wait for their commit"),
    ("cache_bytes", "Bytes of messages kept in memory"),
    ("file_bytes", "Bytes of the database file"),
    ("wal_bytes", "Bytes of the write-ahead log"),
    ("disk_free_bytes", "Bytes free on the disk of the data folder"),
    ("scheduled", "Messages that wait for their time"),
    ("last_commit_seconds", "Seconds that the latest commit took, fsync included"),
)
_COUNTERS = (("commits", "Transactions committed"), ("committed_messages", "Messages committed"))
_SUBSCRIPTION_GAUGES = (
    ("ready", "Messages ready to be handed out"),
    ("leased", "Messages in the hands of workers"),
    ("delayed", "Messages that wait for their retry"),
    ("blocked", "Messages that wait behind one of their key"),
    ("consumers", "Live readers"),
    ("dead_letters", "Messages among the dead letters now"),
    ("lag", "Offsets between the cursor and the end of the log"),
)
_SUBSCRIPTION_COUNTERS = (
    ("acked", "Messages acknowledged since the start"),
    ("retried", "Deliveries that failed and are tried again"),
    ("dead", "Messages moved to dead letters"),
    ("expired", "Messages that outlived their time to live"),
    ("dropped", "Messages dropped because the queue was at its cap"),
    ("leases_expired", "Leases that ran out before the worker settled"),
)


class Histogram:
    """Counts by size; an observation costs a bisection and two additions."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """Of all values."""
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, values up to it), as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found


@dataclass(frozen=True, slots=True)
class Figures:
    """One metric of a part of the broker; made by `gauge` and `counter`. `values`: by a tuple, one text per label."""

    kind: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    text: str
    labels: tuple[str, ...]
    values: Mapping[Any, float]


def gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Figures:
    """What goes up and down: `postroom_<name>`."""
    return Figures(GaugeMetricFamily, name, text, labels, values)


def counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Figures:
    """What only grows: `postroom_<name>_total`."""
    return Figures(CounterMetricFamily, name, text, labels, values)


class FigureCollector(Collector):
    """What parts say of themselves when they are asked. A metric has at most MAX_LABELLED series."""

    def __init__(self, read: Callable[[], Iterable[Figures]], histograms: Mapping[str, Histogram]) -> None:
        self._read = read
        self._histograms = histograms

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known when collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics of the parts."""
        for figures in self._read():
            metric = figures.kind(f"postroom_{figures.name}", figures.text, labels=figures.labels)
            for labels, value in sorted(figures.values.items())[:MAX_LABELLED]:
                metric.add_metric(labels, float(value))
            yield metric
        yield from _extra(self._histograms)


class EngineCollector(Collector):
    """What the engine says of itself. `stats` and `subscriptions` are its methods of these names (floor 2 describes
    what they return); `wall` gives unix seconds. A number or Histogram in `stats().extra` becomes `postroom_<key>`."""

    def __init__(
        self, stats: Callable[[], Any], subscriptions: Callable[[], Sequence[Any]], wall: Callable[[], float]
    ) -> None:
        self._stats = stats
        self._subscriptions = subscriptions
        self._wall = wall

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known when collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics, from one look at the engine."""
        stats = self._stats()
        yield _state(stats.state)
        for name, text in _GAUGES:
            yield GaugeMetricFamily(f"postroom_{name}", text, value=getattr(stats, name))
        for name, text in _COUNTERS:
            yield CounterMetricFamily(f"postroom_{name}", text, value=getattr(stats, name))
        yield from _extra(stats.extra)
        yield from self._of_subscriptions()

    def _of_subscriptions(self) -> Iterable[Metric]:
        infos = self._subscriptions()
        yield GaugeMetricFamily("postroom_subscriptions", "Subscriptions that exist", value=len(infos))
        names = [info.spec.name if i < MAX_LABELLED else OTHERS for i, info in enumerate(infos)]
        for field, text in _SUBSCRIPTION_GAUGES:
            gauge = GaugeMetricFamily(f"postroom_subscription_{field}", text, labels=["subscription"])
            yield _summed(gauge, names, (getattr(info, field) for info in infos))
        for field, text in _SUBSCRIPTION_COUNTERS:
            counter = CounterMetricFamily(f"postroom_subscription_{field}", text, labels=["subscription"])
            yield _summed(counter, names, (getattr(info, field) for info in infos))
        yield self._ages(names, infos)

    def _ages(self, names: Sequence[str], infos: Sequence[Any]) -> Metric:
        now = self._wall()
        metric = GaugeMetricFamily(
            "postroom_subscription_oldest_seconds", "Age of the oldest outstanding message", labels=["subscription"]
        )
        ages: dict[str, float] = {}
        for name, info in zip(names, infos, strict=True):
            age = max(0.0, now - info.oldest_at / 1000) if info.oldest_at is not None else 0.0
            ages[name] = max(age, ages.get(name, 0.0))
        for name, age in ages.items():
            metric.add_metric([name], age)
        return metric


class RequestCollector(Collector):
    """Requests of one door: how many, how they ended, how long they took. Routes are few and named in the code."""

    def __init__(self, door: str, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._door = door
        self._gauges = gauges
        self._ended: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._seconds: defaultdict[str, Histogram] = defaultdict(Histogram)

    def count(self, route: str, status: int, seconds: float) -> None:
        """One request ended; status 0 when its client went away before."""
        self._ended[route, status] += 1
        self._seconds[route].observe(seconds)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known when collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics of the door."""
        prefix = f"postroom_{self._door}"
        requests = CounterMetricFamily(f"{prefix}_requests", "Requests answered", labels=["route", "status"])
        for (route, status), count in sorted(self._ended.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(f"{prefix}_request_seconds", "Seconds from head to answer", labels=["route"])
        for route, histogram in sorted(self._seconds.items()):
            seconds.add_metric([route], histogram.buckets(), histogram.sum)
        yield seconds
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"{prefix}_{name}", text, value=value())


class LimitCollector(Collector):
    """How often each limit was run into, and what is slowed by one now."""

    def __init__(self, times: Mapping[str, int], gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._times = times
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known when collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics of limits."""
        hits = CounterMetricFamily("postroom_limit_hits", "How often a limit was run into", labels=["limit"])
        for name, count in sorted(self._times.items()):
            hits.add_metric([name], count)
        yield hits
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"postroom_{name}", text, value=value())


def registry(*collectors: Collector) -> CollectorRegistry:
    """A registry of these and of the process itself (memory, processor time, open files)."""
    made = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=made)
    for collector in collectors:
        made.register(collector)
    return made


def _state(state: str) -> Metric:
    metric = GaugeMetricFamily("postroom_state", "1 for the state that the engine is in", labels=["state"])
    for name in STATES:
        metric.add_metric([name], float(name == state))
    return metric


def _summed(metric: Any, names: Sequence[str], values: Iterable[float]) -> Metric:
    sums: dict[str, float] = {}
    for name, value in zip(names, values, strict=True):
        sums[name] = sums.get(name, 0) + value
    for name, value in sums.items():
        metric.add_metric([name], value)
    found: Metric = metric
    return found


def _extra(extra: Mapping[str, Any]) -> Iterable[Metric]:
    for name, value in sorted(extra.items()):
        text = name.replace("_", " ")
        if isinstance(value, Histogram):
            yield HistogramMetricFamily(f"postroom_{name}", text, buckets=value.buckets(), sum_value=value.sum)
        elif isinstance(value, (int, float)):
            yield GaugeMetricFamily(f"postroom_{name}", text, value=value)
