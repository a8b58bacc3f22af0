"""Durations as people write them: `500ms`, `30s`, `5m`, `2h`, `7d`, or a bare number of seconds. Floor 0."""

import re

from broker.core.errors import BrokerError, Code

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_FORM = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*(ms|s|m|h|d)", re.ASCII)
_LONGEST = 10**15


def parse_duration(value: object, name: str = "duration") -> int:
    """Milliseconds, below 10**15. Raises BrokerError(BAD_OPTION) naming the option `name`."""
    if type(value) in (int, float) and 0 <= value < 1e12:  # type: ignore[operator]
        return int(value * 1000)  # type: ignore[operator]
    match = _FORM.fullmatch(value.strip()) if type(value) is str else None
    duration = int(float(match[1]) * _UNITS[match[2]]) if match else -1
    if not 0 <= duration < _LONGEST:
        raise BrokerError(Code.BAD_OPTION, f"{name}: {value!r} is no duration; write 500ms, 30s, 5m, 2h, 7d or seconds")
    return duration


def format_duration(ms: int) -> str:
    """The shortest exact form: 90000 → `90s`, 120000 → `2m`."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNITS[unit] == 0:
            return f"{ms // _UNITS[unit]}{unit}"
    return f"{ms}ms"
