"""The codec by itself, and against the vectors that hold the broker to the same page."""

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from postroom_client import wire
from postroom_client.identity import made_id
from postroom_client.message import LoggedMessage

from broker.protocols.native import wire as brokers

FILE = Path(__file__).parents[1] / "vectors" / "native.json"

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=9,
)
frames = st.lists(st.tuples(st.integers(1, 99), values), max_size=5)


def plain(value: Any) -> Any:
    """Arrays as tuples, as frames arrive."""
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


@given(frames, st.data())
def test_frames_survive_any_cutting_into_reads(sent: list[tuple[int, Any]], data: st.DataObject) -> None:
    stream = b"".join(wire.pack(frame) for frame in sent)
    reader, received = wire.FrameReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += reader.feed(stream[:size])
        stream = stream[size:]
    assert received == [plain(frame) for frame in sent]


@given(frames)
def test_broker_and_client_write_the_same_bytes(sent: list[tuple[int, Any]]) -> None:
    assert [wire.pack(frame) for frame in sent] == [brokers.encode(frame) for frame in sent]


def test_frame_types_are_the_brokers() -> None:
    names = [name for name in vars(brokers) if name.isupper() and not name.startswith("_")]
    assert len(names) > 20
    assert {name: getattr(wire, name) for name in names} == {name: getattr(brokers, name) for name in names}


def test_a_long_frame_is_refused_by_its_length_alone() -> None:
    reader = wire.FrameReader(limit=100)
    with pytest.raises(wire.WireError, match="101 bytes, the limit is 100") as caught:
        reader.feed((101).to_bytes(4, "big"))
    assert caught.value.code == "frame_too_large"


@pytest.mark.parametrize(
    "payload",
    [b"\xc1", b"\x93\x01", msgpack.packb({}), msgpack.packb([]), msgpack.packb(["1"]), b"\x92\x01\xa2\xff\xff", b""],
    ids=["reserved", "short", "map", "empty", "no type", "not UTF-8", "nothing"],
)
def test_what_is_no_frame_says_so(payload: bytes) -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.FrameReader().feed(len(payload).to_bytes(4, "big") + payload)
    assert caught.value.code == "bad_frame"


def test_an_http_port_is_told_from_a_broken_broker() -> None:
    with pytest.raises(wire.WireError, match="this is an HTTP port"):
        wire.FrameReader().feed(b"HTTP/1.0 400 Bad Request\r\n")


def test_elements_left_out_are_nil_and_unknown_ones_ignored() -> None:
    assert wire.padded((33, 7), 4) == (33, 7, None, None)
    assert wire.padded((33, 7, (), (), "new"), 4) == (33, 7, (), ())


# The vectors

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text())


def read(value: Any) -> Any:
    """A value of the file as it arrives: arrays as tuples, bytes, maps with any keys."""
    if isinstance(value, list):
        return tuple(read(item) for item in value)
    if isinstance(value, dict):
        if "$bin" in value:
            return bytes.fromhex(value["$bin"])
        if "$map" in value:
            return {read(key): read(item) for key, item in value["$map"]}
        return {key: read(item) for key, item in value.items()}
    return value


def named(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.get("name", str(i)) for i, case in enumerate(cases)])


@named(VECTORS["frames"])
def test_a_frame_of_the_vectors_both_ways(case: dict[str, Any]) -> None:
    packed, value = bytes.fromhex(case["hex"]), read(case["value"])
    assert wire.FrameReader(len(packed)).feed(packed) == [value]
    assert wire.pack(value) == packed


@named(VECTORS["refused"])
def test_what_the_vectors_refuse(case: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.FrameReader(case.get("max_frame", 8 << 20)).feed(bytes.fromhex(case["hex"]))
    assert caught.value.code == case["error"]


@named(VECTORS["limits"])
def test_limits_of_the_vectors(case: dict[str, Any]) -> None:
    packed = bytes.fromhex(case["hex"])
    assert len(wire.FrameReader(case["max_frame"]).feed(packed)) == 1
    with pytest.raises(wire.WireError) as caught:
        wire.FrameReader(case["max_frame"] - 1).feed(packed)
    assert caught.value.code == "frame_too_large"


@named(VECTORS["made_ids"])
def test_ids_of_the_vectors(case: dict[str, Any]) -> None:
    assert made_id(case["epoch"], case["offset"], case["at"]) == case["id"]


@named(VECTORS["metas"])
def test_metas_of_the_vectors(case: dict[str, Any]) -> None:
    packed = bytes.fromhex(case["hex"])
    assert read(LoggedMessage((1, "t", 1, packed, b""), "ep").meta) == read(case["value"])
