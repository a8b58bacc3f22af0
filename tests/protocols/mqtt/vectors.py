"""The packet vectors in the folder that POSTROOM_MQTT_VECTORS names; its README.md says where they are from and how the
payloads are written."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.protocols.mqtt.codec.fields import write_four, write_two, write_varint

FOLDER = os.environ.get("POSTROOM_MQTT_VECTORS", "")
needed = pytest.mark.skipif(not FOLDER, reason="POSTROOM_MQTT_VECTORS names no folder with the MQTT vectors")

_TOKEN = re.compile(r"'[^']*'|\S+")
_WRITE = {
    "i": lambda number: bytes((number,)),
    **dict.fromkeys("Hkms", write_two),
    "L": write_four,
    **dict.fromkeys("vr", None),
}


@dataclass(frozen=True)
class Vector:
    """One case: what a client sends, what a server sends, in order; and whether the server hangs up in the end."""

    file: str
    group: str
    name: str
    version: int
    connects: bool
    closes: bool
    steps: tuple[tuple[str, bytes], ...]
    others: tuple[tuple[int, str, bytes, int], ...] = ()
    """What another client publishes: before which step, topic, payload, QoS."""

    def __str__(self) -> str:
        return f"{self.file}/{self.group}/{self.name}"


def load() -> list[Vector]:
    """All of them; none when there is no folder."""
    paths = sorted(Path(FOLDER).glob("*.json")) if FOLDER else []
    return [vector for path in paths for group in json.loads(path.read_text()) for vector in _group(path.stem, group)]


def _group(file: str, group: dict[str, Any]) -> Iterator[Vector]:
    for test in group["tests"]:
        yield Vector(
            file,
            group["group"],
            test["name"].strip(),
            test.get("ver", group.get("ver")),
            test.get("connect", group.get("connect", True)),
            test.get("expect_disconnect", True),
            tuple((m["type"], payload(m["payload"])) for m in test["msgs"] if m["type"] in ("send", "recv")),
            tuple(_others(test["msgs"])),
        )


def _others(messages: list[dict[str, Any]]) -> Iterator[tuple[int, str, bytes, int]]:
    at = 0
    for message in messages:
        if message["type"] == "external_publish":
            yield at, message["topic"], message["payload"].encode(), message["qos"]
        else:
            at += 1


def payload(text: str) -> bytes:
    """The bytes that a payload stands for."""
    return b"".join(_token(token) for token in _TOKEN.findall(text))


def _token(token: str) -> bytes:
    if token[0] == "'":
        return token[1:-1].encode()
    if token[0] not in _WRITE:
        return bytes.fromhex(token)
    write, number = _WRITE[token[0]], int(token[1:])
    return write(number) if write else _varint(number)


def _varint(number: int) -> bytes:
    """Some are over the protocol's limit on purpose."""
    if number < 1 << 28:
        return write_varint(number)
    return bytes((number >> shift & 0x7F | 0x80) for shift in (0, 7, 14, 21)) + bytes((number >> 28,))
