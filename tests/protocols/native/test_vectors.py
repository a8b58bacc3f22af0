"""The daemon's codec held to `tests/vectors/native.json`, frame by frame and cut at every place."""

import json
from pathlib import Path
from typing import Any

import pytest

from broker.core.errors import BrokerError, Code
from broker.core.message import made_id, pack_meta, unpack_meta
from broker.protocols.native import wire
from broker.protocols.native.wire import FrameReader, encode

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "native.json").read_text("utf-8"))
LIMIT = 8 << 20


def value_of(written: Any) -> Any:
    """A value of the file as the codec gives it: bin, maps with any keys, arrays as tuples."""
    if isinstance(written, list):
        return tuple(map(value_of, written))
    if isinstance(written, dict):
        if written.keys() == {"$bin"}:
            return bytes.fromhex(written["$bin"])
        if written.keys() == {"$map"}:
            return {value_of(k): value_of(v) for k, v in written["$map"]}
        return {k: value_of(v) for k, v in written.items()}
    return written


def named(kind: str, direction: str = "") -> list[Any]:
    chosen = [v for v in VECTORS[kind] if not direction or v["direction"] == direction]
    return [pytest.param(vector, id=vector["name"]) for vector in chosen]


FROM_CLIENTS = named("frames", "to broker")


def byte_by_byte(reader: FrameReader, data: bytes) -> list[wire.Frame]:
    return [frame for byte in data for frame in reader.feed(bytes((byte,)))]


def code_of(error: BrokerError) -> str:
    return error.code.value


@pytest.mark.parametrize("vector", named("frames"))
def test_a_value_becomes_these_bytes(vector: dict[str, Any]) -> None:
    assert encode(value_of(vector["value"])).hex() == vector["hex"]


@pytest.mark.parametrize("vector", FROM_CLIENTS)
def test_these_bytes_become_the_value(vector: dict[str, Any]) -> None:
    assert FrameReader(LIMIT).feed(bytes.fromhex(vector["hex"])) == [value_of(vector["value"])]


@pytest.mark.parametrize("vector", FROM_CLIENTS)
def test_cut_anywhere_they_become_the_same(vector: dict[str, Any]) -> None:
    data, value = bytes.fromhex(vector["hex"]), value_of(vector["value"])
    for cut in range(1, min(len(data), 64)):
        reader = FrameReader(LIMIT)
        assert reader.feed(data[:cut]) + reader.feed(data[cut:] + data[:cut]) + reader.feed(data[cut:]) == [value] * 2
    assert byte_by_byte(FrameReader(LIMIT), data) == [value]


def test_all_frames_in_one_read() -> None:
    vectors = [v for v in VECTORS["frames"] if v["direction"] == "to broker"]
    data = b"".join(bytes.fromhex(v["hex"]) for v in vectors)
    assert FrameReader(LIMIT).feed(data) == [value_of(v["value"]) for v in vectors]


@pytest.mark.parametrize("vector", named("refused"))
def test_malformed_bytes_are_refused(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    with pytest.raises(BrokerError) as refusal:
        FrameReader(vector.get("max_frame", LIMIT)).feed(data)
    assert code_of(refusal.value) == vector["error"]
    assert refusal.value.kind.closes


@pytest.mark.parametrize("vector", named("refused"))
def test_malformed_bytes_are_refused_however_they_arrive(vector: dict[str, Any]) -> None:
    reader = FrameReader(vector.get("max_frame", LIMIT))
    with pytest.raises(BrokerError) as refusal:
        byte_by_byte(reader, bytes.fromhex(vector["hex"]))
    assert code_of(refusal.value) == vector["error"]


@pytest.mark.parametrize("vector", named("refused"))
def test_frames_before_a_malformed_one_do_not_hide_it(vector: dict[str, Any]) -> None:
    with pytest.raises(BrokerError):
        FrameReader(vector.get("max_frame", LIMIT)).feed(encode((wire.PING,)) + bytes.fromhex(vector["hex"]))


@pytest.mark.parametrize("vector", named("limits"))
def test_the_limit_is_exact(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    assert FrameReader(vector["max_frame"]).feed(data) == [value_of(vector["value"])]
    with pytest.raises(BrokerError) as refusal:
        FrameReader(vector["max_frame"] - 1).feed(data)
    assert refusal.value.code is Code.FRAME_TOO_LARGE


@pytest.mark.parametrize("vector", VECTORS["made_ids"], ids=lambda v: v["id"])
def test_ids_computed_from_a_place_in_the_log(vector: dict[str, Any]) -> None:
    assert made_id(vector["epoch"], vector["offset"], vector["at"]) == vector["id"]


@pytest.mark.parametrize("vector", named("metas"))
def test_meta(vector: dict[str, Any]) -> None:
    packed = bytes.fromhex(vector["hex"])
    meta = json.loads(json.dumps(vector["value"]))
    assert packed[0] == vector["flags"]
    assert pack_meta(meta) == packed
    assert unpack_meta(packed) == meta


def test_every_frame_type_has_a_vector() -> None:
    seen = {vector["value"][0] for vector in VECTORS["frames"]}
    assert seen == {*range(wire.HELLO, wire.GOODBYE + 1), *range(wire.WELCOME, wire.SLOWED + 1)}
