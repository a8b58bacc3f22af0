"""Sizes as people write them: `512KiB`, `64MB`, `1GiB`, or a bare number of bytes. Floor 0."""

import re

from broker.core.errors import BrokerError, Code

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_FORM = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]i?B|B)", re.ASCII)
_LARGEST = 1 << 62


def parse_size(value: object, name: str = "size") -> int:
    """Bytes, rounded down. Raises BrokerError(BAD_OPTION) naming the option `name`."""
    if type(value) is int and 0 <= value <= _LARGEST:
        return value
    match = _FORM.fullmatch(value.strip()) if type(value) is str else None
    size = int(float(match[1]) * _UNITS[match[2]]) if match else -1
    if not 0 <= size <= _LARGEST:
        raise BrokerError(
            Code.BAD_OPTION, f"{name}: {value!r} is no size; write 512KiB, 64MB, 1GiB or a number of bytes"
        )
    return size
