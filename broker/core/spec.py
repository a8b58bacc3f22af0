"""Subscription settings as a map of plain values (HTTP, the native protocol, config, the engine's own file) and back.
Floor 0."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from broker.core.duration import format_duration, parse_duration
from broker.core.errors import BrokerError, Code
from broker.core.position import LATEST, Start
from broker.core.retry import RetryPolicy
from broker.core.subscription import Kind, Overflow, Spec
from broker.core.topic import check_filter

HIDDEN = "***"
MAX_FILTERS = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FLAGS = ("ordered", "fair", "single_active")
_COUNTS = ("max_messages", "max_bytes", "max_deliveries")
_KEYS = {"name", "kind", "topics", "from", "lease", "retry", "overflow", "webhook", *_FLAGS, *_COUNTS}
_QUEUE_ONLY = {"lease", "retry", "overflow", *_FLAGS, *_COUNTS}


def check_name(name: object) -> str:
    """Return the name if a subscription may have it. Raises BAD_OPTION."""
    if type(name) is not str or not _NAME.fullmatch(name):
        raise BrokerError(Code.BAD_OPTION, f"{name!r} is no name: letters, digits, '.', '_', '-', at most 128")
    return name


def parse_spec(name: str, options: Mapping[str, Any]) -> Spec:
    """Build a Spec from plain values; every error names the key and what fits. Raises BAD_OPTION, BAD_FILTER."""
    topics = options.get("topics")
    if isinstance(topics, (list, tuple)) and len(topics) > MAX_FILTERS:
        raise BrokerError(Code.BAD_OPTION, f"topics must be a list of 1 to {MAX_FILTERS} topic filters")
    return stored_spec(check_name(name), options)


def stored_spec(name: str, options: Mapping[str, Any]) -> Spec:
    """The same for what was accepted once, the broker's own subscriptions included, whose names nobody else may give
    and whose filters are bounded by who made them."""
    unknown = set(options) - _KEYS
    if unknown:
        raise BrokerError(
            Code.BAD_OPTION, f"no option {min(unknown, key=repr)!r}; there are {', '.join(sorted(_KEYS))}"
        )
    kind = _choice(Kind, options.get("kind", "queue"), "kind")
    topics = options.get("topics")
    if not isinstance(topics, (list, tuple)) or not topics:
        raise BrokerError(Code.BAD_OPTION, f"topics must be a list of 1 to {MAX_FILTERS} topic filters")
    if kind is Kind.STREAM and (extra := _QUEUE_ONLY & {k for k, v in options.items() if v}):
        raise BrokerError(Code.BAD_OPTION, f"{min(extra)} is for queues; this is a stream")
    sink = options.get("webhook")
    if sink is not None and (not isinstance(sink, Mapping) or not isinstance(sink.get("url"), str)):
        raise BrokerError(Code.BAD_OPTION, 'webhook must be a map with a url: {"url": "https://…"}')
    spec = Spec(
        name=name,
        kind=kind,
        topics=tuple(dict.fromkeys(check_filter(t) for t in topics)),
        start=Start.parse(options["from"]) if options.get("from") is not None else LATEST,
        sink=dict(sink) if sink else None,
    )
    if kind is Kind.STREAM:
        return spec
    values: dict[str, Any] = {flag: _flag(options, flag) for flag in _FLAGS}
    values.update({count: _count(options, count) for count in _COUNTS if options.get(count) is not None})
    if options.get("lease") is not None:
        values["lease"] = _lease(options["lease"])
    if options.get("overflow") is not None:
        values["overflow"] = _choice(Overflow, options["overflow"], "overflow")
    values["retry"] = parse_retry(options.get("retry") or {})
    return replace(spec, **values)


def _lease(value: object) -> int:
    lease = parse_duration(value, "lease")
    if not 100 <= lease <= 86_400_000:
        raise BrokerError(Code.BAD_OPTION, "lease must be from 100ms to 24h; extend a longer job's lease")
    return lease


def parse_retry(options: Any) -> RetryPolicy:
    """`{initial, factor, cap, jitter, max_attempts, schedule}`, durations as people write them. Raises BAD_OPTION."""
    known = {"initial", "factor", "cap", "jitter", "max_attempts", "schedule"}
    if not isinstance(options, Mapping) or set(options) - known:
        raise BrokerError(Code.BAD_OPTION, f"retry is a map of {', '.join(sorted(known))}")
    values: dict[str, Any] = {k: parse_duration(options[k], f"retry.{k}") for k in ("initial", "cap") if k in options}
    for name, low, high in (("factor", 1.0, 100.0), ("jitter", 0.0, 1.0)):
        if name in options:
            value = options[name]
            if type(value) not in (int, float) or not low <= value <= high:
                raise BrokerError(Code.BAD_OPTION, f"retry.{name} must be a number from {low} to {high}")
            values[name] = float(value)
    if "max_attempts" in options:
        values["max_attempts"] = _count(options, "max_attempts")
    if schedule := options.get("schedule"):
        if not isinstance(schedule, (list, tuple)) or len(schedule) > 100:
            raise BrokerError(Code.BAD_OPTION, "retry.schedule must be a list of at most 100 durations")
        values["schedule"] = tuple(parse_duration(v, "retry.schedule") for v in schedule)
        values.setdefault("max_attempts", len(values["schedule"]) + 1)
    return RetryPolicy(**values)


def spec_values(spec: Spec) -> dict[str, Any]:
    """The inverse of `parse_spec`: plain values, every key given, no name. The start is left out: it is the past."""
    values: dict[str, Any] = {"kind": spec.kind.value, "topics": list(spec.topics)}
    if spec.sink:
        values["webhook"] = dict(spec.sink)
    if spec.kind is Kind.STREAM:
        return values
    retry = spec.retry
    values["lease"] = format_duration(spec.lease)
    values["retry"] = {
        "initial": format_duration(retry.initial),
        "factor": retry.factor,
        "cap": format_duration(retry.cap),
        "jitter": retry.jitter,
        "max_attempts": retry.max_attempts,
        "schedule": [format_duration(d) for d in retry.schedule],
    }
    values["overflow"] = spec.overflow.value
    return values | {name: getattr(spec, name) for name in (*_FLAGS, *_COUNTS)}


def shown_values(spec: Spec) -> dict[str, Any]:
    """The same for people to look at: what signs a webhook or lets it in (headers) is HIDDEN."""
    values = spec_values(spec)
    if spec.sink:
        values["webhook"] = {name: _hidden(name, value) for name, value in spec.sink.items()}
    return values


def _hidden(name: str, value: Any) -> Any:
    if name == "headers" and isinstance(value, Mapping):
        return dict.fromkeys(value, HIDDEN)
    return HIDDEN if name == "secret" and value is not None else value


def revealed(spec: Spec, before: Spec | None) -> Spec:
    """What was shown may be sent back: HIDDEN stands for what `before` has there. Raises BAD_OPTION if it has none."""
    known = (before.sink if before is not None else None) or {}
    sink = {name: _revealed(f"webhook.{name}", value, known.get(name)) for name, value in (spec.sink or {}).items()}
    return replace(spec, sink=sink or None)


def _revealed(name: str, value: Any, known: Any) -> Any:
    if isinstance(value, Mapping):
        there = known if isinstance(known, Mapping) else {}
        return {key: _revealed(f"{name}.{key}", inner, there.get(key)) for key, inner in value.items()}
    if value != HIDDEN:
        return value
    if known is None:
        raise BrokerError(Code.BAD_OPTION, f"{name}: {HIDDEN} stands for the one that is set, and none is; write it")
    return known


def _flag(options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, False)
    if type(value) is not bool and value is not None:
        raise BrokerError(Code.BAD_OPTION, f"{name} must be true or false")
    return bool(value)


def _count(options: Mapping[str, Any], name: str) -> int:
    value = options[name]
    if type(value) is not int or not 1 <= value < 1 << 53:
        raise BrokerError(Code.BAD_OPTION, f"{name} must be a whole number from 1 to 2**53")
    return value


def _choice(enum: Any, value: object, name: str) -> Any:
    try:
        return enum(value)
    except ValueError:
        raise BrokerError(Code.BAD_OPTION, f"{name} must be {' or '.join(e.value for e in enum)}") from None
