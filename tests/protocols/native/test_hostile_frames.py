"""Frames that are well formed and mean harm: their own connection may end, the engine and everybody else go on."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.protocols.native import wire
from tests.engine.world import open_world
from tests.protocols.native.client import Wire, all_is_well, greeted, make

HUGE = (1 << 64) - 1
ODD: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from([0, 1, 2, -1, 1 << 31, 1 << 53, 1 << 62, 1 << 63, HUGE, -(1 << 63)]),
        st.floats(),
        st.sampled_from(["", "q", "jobs", "ack", "retry", "reject", "release", "$dead/q", "#", "a\0b", "earliest"]),
        st.binary(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["publish", "settle", "set", "id", "key", "ttl", "delay", "due", "priority", "headers"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
FRAMES = st.tuples(st.integers(1, 13), st.lists(ODD, max_size=5)).map(lambda t: [t[0], *t[1]])


@pytest.mark.parametrize(
    "frame",
    [
        [wire.SETTLE, 1, "retry", [1], {"delay": HUGE}],
        [wire.SETTLE, 1, "retry", [1], {"delay": 1 << 62}],
        [wire.SETTLE, 1, "retry", [1], {"delay": 1.5}],
        [wire.SETTLE, 1, "retry", [1], {"error": "x" * 100_000}],
        [wire.SETTLE, 1, "retry", [1], ["delay"]],
        [wire.SETTLE, 1, "retry", [1], 5],
        [wire.UNIT, 1, {"settle": [[1, "retry", [1], ["delay"]]]}],
        [wire.SETTLE, 1, "ack", [HUGE, -1, 0, 1 << 63]],
        [wire.SETTLE, 1, "ack", ["1", None, 1.0, True, [1]]],
        [wire.SETTLE, 1, "retry", ["1", None, 1.0]],
        [wire.SETTLE, 1, "reject", [-1, HUGE]],
        [wire.SETTLE, 1, "ack", "12", None, 5],
        [wire.SETTLE, 1, "ack", [1, 1, 1]],
        [wire.SETTLE, 1, "explode", [1]],
        [wire.SETTLE, 1, ["ack"], [1]],
        [wire.SETTLE, [1], "ack", [1]],
        [wire.EXTEND, 1, [1], HUGE],
        [wire.EXTEND, 1, [1], -5],
        [wire.EXTEND, 1, [1], "long"],
        [wire.EXTEND, 1, [1], float("nan")],
        [wire.EXTEND, 1, [1], float("inf")],
        [wire.STARTED, 1, [HUGE, "x"]],
        [wire.STARTED, 1, [[1]]],
        [wire.CREDIT, 1, HUGE, HUGE],
        [wire.CREDIT, 1, -1, 0],
        [wire.CREDIT, 1, True, 0],
        [wire.ATTACH, 2, None, {"topics": ["#"], "from": HUGE}],
        [wire.ATTACH, 2, None, {"topics": "#"}],
        [wire.ATTACH, 2, None, {"topics": [5]}],
        [wire.ATTACH, 2, "q", {"topics": 5}],
        [wire.ATTACH, 2, None, {"topics": ["#"], "from": ["earliest"]}],
        [wire.ATTACH, 2, None, {"topics": ["#"], "from": "earliest", "credit": "many"}],
        [wire.ATTACH, 2, None, ["topics"]],
        [wire.PUBLISH, 1, [["a", b"", {"ttl": HUGE}]]],
        [wire.PUBLISH, 1, [["a", b"", {"delay": HUGE}]]],
        [wire.PUBLISH, 1, [["a", b"", {"due": HUGE}]]],
        [wire.PUBLISH, 1, [["a", b"", {"due": 1, "ttl": 1}]]],
        [wire.PUBLISH, 1, [["a", b"", {"key": ["k"]}]]],
        [wire.PUBLISH, 1, [["a", b"", {"id": ["i"], "delay": 5}]]],
        [wire.PUBLISH, 1, [["a", b"", {"headers": {"a": ["deep"]}}]]],
        [wire.PUBLISH, 1, [[["a"], b""]]],
        [wire.PUBLISH, 1, [[["a"], b"", {}]]],
        [wire.PUBLISH, 1, [["a", "text"]]],
        [wire.PUBLISH, 1, [["a"]]],
        [wire.PUBLISH, 1, []],
        [wire.PUBLISH, 1, [[]]],
        [wire.PUBLISH, 1, "ab"],
        [wire.PUBLISH, HUGE, [["a", b""]]],
        [wire.PUBLISH, -5, [["a", b""]]],
        [wire.PUBLISH, 1, [["$dead/q", b""]]],
        [wire.UNIT, 1, {"settle": [[1, "retry", [1], {"delay": HUGE}]]}],
        [wire.UNIT, 1, {"settle": [[1, "ack", [HUGE, -1]]]}],
        [wire.UNIT, 1, {"settle": [[1, "ack", ["1", None]]]}],
        [wire.UNIT, 1, {"settle": [[1, "retry", [1.5]]]}],
        [wire.UNIT, 1, {"settle": [[9, "ack", [1]]]}],
        [wire.UNIT, 1, {"settle": [[1]]}],
        [wire.UNIT, 1, {"set": [["k", "text"]]}],
        [wire.UNIT, 1, {"set": [[5, b"v"]]}],
        [wire.UNIT, 1, {"set": [["k", b"v", HUGE]]}],
        [wire.UNIT, 1, {"set": [["k", b"v", "1"]]}],
        [wire.UNIT, 1, {"set": [["k" * 100_000, b"v"]]}],
        [wire.UNIT, 1, {"publish": [["a", b"", {"due": HUGE}]]}],
        [wire.UNIT, 1, {"publish": 5}],
        [wire.UNIT, 1, []],
        [wire.UNIT, 1],
        [wire.REQUEST, [1], "status"],
        [wire.REQUEST, 1, ["status"]],
        [wire.REQUEST],
        [wire.HELLO, 1, {}],
        [wire.WELCOME, 1, {}],
        [99],
        [HUGE],
        [-1],
    ],
    ids=repr,
)
async def test_no_frame_harms_the_others(tmp_path: Path, frame: list[Any]) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        client.say(frame)
        await all_is_well(world)
        client.session.lost()
        await all_is_well(world)
        worker = world.attach("q")
        await world.advance(3_600)
        assert len(worker.rows) <= 3


async def test_a_unit_of_many_settles_of_nothing_is_too_large(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        client.say([wire.UNIT, 1, {"settle": [[1, "ack", []]] * (client.session.hub.limits.max_batch + 1)}])
        assert client.heard[-1][:3] == [wire.ERROR, None, "bad_frame"]
        assert client.session.closed


@settings(max_examples=settings().max_examples // 2)
@given(frames=st.lists(FRAMES, min_size=1, max_size=12))
async def test_no_course_of_frames_harms_the_others(
    frames: list[list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with open_world(tmp_path_factory.mktemp("hostile") / "data", make) as world:
        client = await greeted(world)
        for frame in frames:
            client.say(frame)
            if client.session.closed:
                client.session.lost()
                client = Wire(world)
                client.say([wire.HELLO, 1, {}], [wire.ATTACH, 1, "q", {"credit": 10}])
        await all_is_well(world)


@pytest.mark.parametrize(
    "frame",
    [
        [wire.PUBLISH, 1, [["a", b""]]],
        [wire.HELLO],
        [wire.HELLO, 0],
        [wire.HELLO, "1"],
        [wire.HELLO, 1, "me"],
        [wire.HELLO, 1, {"publisher": 5}],
        [wire.HELLO, 1, {"publisher": "x" * 1_000}],
        [wire.HELLO, 1, {"client": ["x"]}],
        [wire.PING],
        [99],
    ],
    ids=repr,
)
async def test_no_greeting_harms_the_others(tmp_path: Path, frame: list[Any]) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = Wire(world)
        client.say(frame)
        await all_is_well(world)
        assert client.session.closed == (client.heard[0][0] == wire.ERROR)


async def test_an_error_says_why_and_closes(tmp_path: Path) -> None:
    async with open_world(tmp_path / "data", make) as world:
        client = await greeted(world)
        client.say([wire.CREDIT, 1, -1, 0])
        kind, request, code, text = client.heard[-1]
        assert (kind, request, code) == (wire.ERROR, None, "bad_frame")
        assert text
        assert client.session.closed
