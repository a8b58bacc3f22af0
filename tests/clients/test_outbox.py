"""Publishing exactly once, the bookkeeping alone: any mix of publishes, confirms, refusals and lost connections."""

import asyncio
import random
from typing import Any

import msgpack
import pytest
from postroom_client import wire
from postroom_client.batch import Group
from postroom_client.errors import PartlyRefused, PostroomError
from postroom_client.outbox import Outbox
from postroom_client.receipt import Receipt


class Waiter:
    """A future without a loop."""

    result: Any = None

    def done(self) -> bool:
        return self.result is not None

    def set_result(self, result: Any, /) -> None:
        assert not self.done()
        self.result = result

    def set_exception(self, exception: BaseException, /) -> None:
        self.set_result(exception)


def opened(sequence: int = 0, **limits: int) -> Outbox:
    outbox = Outbox(**limits)
    outbox.welcome(sequence, "ep")
    return outbox


def add(outbox: Outbox, *bodies: bytes, **options: Any) -> list[Waiter]:
    waiters = [Waiter() for _ in bodies]
    for body, waiter in zip(bodies, waiters, strict=True):
        outbox.add(("t", body, options) if options else ("t", body), waiter)
    return waiters


def sent(outbox: Outbox) -> list[tuple[Any, ...]]:
    return [msgpack.unpackb(frame[4:], use_list=False) for frame in outbox.frames()]


def refusal(code: str = "contract_broken") -> PostroomError:
    return PostroomError(code, "no")


def test_messages_of_one_turn_leave_in_one_frame() -> None:
    outbox = opened()
    add(outbox, b"1", b"2")
    assert sent(outbox) == [(wire.PUBLISH, 1, (("t", b"1"), ("t", b"2")))]
    add(outbox, b"3")
    assert sent(outbox) == [(wire.PUBLISH, 3, (("t", b"3"),))]
    assert sent(outbox) == []


def test_a_confirm_answers_by_runs_and_duplicates() -> None:
    outbox = opened()
    one, two = add(outbox, b"1", b"2")
    (named,) = add(outbox, b"3", id="mine")
    (waiting,) = add(outbox, b"4", delay=1000, id="later")
    (five,) = add(outbox, b"5")
    sent(outbox)
    outbox.confirm(4, [(1, 2, 100, 7)], [(3, 42)])
    assert (one.result.offset, two.result.offset, two.result.position) == (100, 101, "ep.101")
    assert (named.result.offset, named.result.duplicate, named.result.id) == (42, True, "mine")
    assert (waiting.result.offset, waiting.result.duplicate, waiting.result.id) == (None, False, "later")
    assert not five.done()
    assert outbox.count == 1
    outbox.confirm(5, [(5, 1, 200, 8)], [])
    assert five.result.offset == 200
    assert (outbox.count, outbox.size) == (0, 0)


def test_runs_of_one_confirm_reach_over_batches_and_gaps() -> None:
    outbox = opened()
    first = add(outbox, b"1", b"2", b"3")
    sent(outbox)
    second = add(outbox, b"4", b"5")
    sent(outbox)
    outbox.confirm(5, [(4, 2, 20, 7), (1, 1, 10, 7), (2, 1, 12, 7)], [(3, -1)])
    assert [w.result.offset for w in first + second] == [10, 12, None, 20, 21]
    assert first[2].result.duplicate
    assert (outbox.count, outbox.size) == (0, 0)


def test_a_refusal_is_answered_at_once_and_the_rest_confirmed() -> None:
    outbox = opened()
    one, two, three = add(outbox, b"1", b"2", b"3")
    sent(outbox)
    outbox.refuse(2, 1, refusal())
    assert two.result.code == "contract_broken"
    outbox.confirm(3, [(1, 1, 10, 7), (3, 1, 11, 7)], [])
    assert (one.result.offset, three.result.offset) == (10, 11)
    assert (outbox.count, outbox.size) == (0, 0)


def test_a_batch_refused_whole_leaves_no_trace() -> None:
    outbox = opened()
    waiters = add(outbox, b"1", b"2")
    sent(outbox)
    outbox.refuse(1, 2, refusal())
    assert [w.result.code for w in waiters] == ["contract_broken"] * 2
    assert (outbox.count, outbox.size) == (0, 0)
    outbox.confirm(2, [], [])
    outbox.welcome(2, "ep")
    assert sent(outbox) == []


def test_after_a_lost_connection_the_rest_leaves_under_the_same_numbers() -> None:
    outbox = opened()
    waiters = add(outbox, b"1", b"2")
    sent(outbox)
    waiters += add(outbox, b"3", b"4")
    sent(outbox)
    waiters += add(outbox, b"5")
    outbox.welcome(3, "ep")
    assert [w.result is not None for w in waiters] == [True, True, True, False, False]
    assert (waiters[0].result.offset, waiters[0].result.duplicate) == (None, False)
    assert sent(outbox) == [(wire.PUBLISH, 4, (("t", b"4"),)), (wire.PUBLISH, 5, (("t", b"5"),))]
    outbox.confirm(5, [(4, 2, 10, 7)], [])
    assert waiters[4].result.offset == 11
    assert (outbox.count, outbox.size) == (0, 0)


def test_a_refused_message_leaves_no_gap_in_the_numbers_sent_again() -> None:
    outbox = opened()
    add(outbox, b"1", b"2", b"3")
    sent(outbox)
    outbox.refuse(2, 1, refusal())
    outbox.welcome(0, "ep")
    assert sent(outbox) == [(wire.PUBLISH, 1, (("t", b"1"), ("t", b"3")))]


def test_a_broker_that_lost_what_it_confirmed_gets_the_numbers_it_expects() -> None:
    outbox = opened()
    add(outbox, b"1", b"2")
    sent(outbox)
    outbox.confirm(2, [(1, 2, 10, 7)], [])
    add(outbox, b"3")
    sent(outbox)
    outbox.welcome(0, "restored")
    assert sent(outbox) == [(wire.PUBLISH, 1, (("t", b"3"),))]


def test_a_refusal_lost_with_its_connection_is_told_by_the_greeting() -> None:
    outbox = opened()
    one, two, three, four = add(outbox, b"1", b"2", b"3", b"4")
    sent(outbox)
    outbox.welcome(3, "ep", [(2, 1, "queue_full"), (99, 1, "other")])
    assert (one.result.offset, three.result.offset) == (None, None)
    assert two.result.code == "queue_full"
    assert sent(outbox) == [(wire.PUBLISH, 4, (("t", b"4"),))]
    outbox.confirm(4, [(4, 1, 10, 7)], [])
    assert (four.result.offset, outbox.count, outbox.size) == (10, 0, 0)


def test_a_lasting_publisher_goes_on_behind_its_last_life() -> None:
    outbox = opened(sequence=500)
    add(outbox, b"1")
    assert sent(outbox)[0][1] == 501


def test_what_a_stopping_broker_refuses_leaves_again() -> None:
    outbox = opened()
    _, two, _ = add(outbox, b"1", b"2", b"3")
    sent(outbox)
    outbox.refuse(2, 1, refusal("shutting_down"))
    outbox.confirm(3, [(1, 1, 10, 7), (3, 1, 11, 7)], [])
    assert not two.done()
    assert outbox.count == 1
    outbox.welcome(3, "ep")
    assert sent(outbox) == [(wire.PUBLISH, 4, (("t", b"2"),))]
    outbox.confirm(4, [(4, 1, 12, 7)], [])
    assert two.result.offset == 12
    assert (outbox.count, outbox.size) == (0, 0)


def test_a_group_is_answered_once_all_are() -> None:
    outbox, waiter = opened(), Waiter()
    group = Group(waiter, 3)
    outbox.add_group([("t", b"1"), ("t", b"2")], group, 0)
    outbox.add_group([("t", b"3")], group, 2)
    assert [frame[1] for frame in sent(outbox)] == [1, 3]
    outbox.confirm(2, [(1, 2, 10, 7)], [])
    assert not waiter.done()
    outbox.confirm(3, [(3, 1, 12, 7)], [])
    assert [r.offset for r in waiter.result] == [10, 11, 12]


def test_a_group_partly_refused_says_which() -> None:
    outbox, waiter = opened(), Waiter()
    outbox.add_group([("t", b"1"), ("t", b"2")], Group(waiter, 2), 0)
    sent(outbox)
    outbox.refuse(1, 1, refusal())
    outbox.confirm(2, [(2, 1, 10, 7)], [])
    assert isinstance(waiter.result, PartlyRefused)
    assert waiter.result.results[0].code == "contract_broken"
    assert waiter.result.results[1].offset == 10


def test_an_atomic_group_is_one_frame_and_fails_as_one() -> None:
    outbox, waiter = opened(), Waiter()
    outbox.add_group([("t", b"1"), ("t", b"2")], Group(waiter, 2), 0, atomic=True)
    assert sent(outbox) == [(wire.PUBLISH, 1, (("t", b"1"), ("t", b"2")), wire.ATOMIC)]
    outbox.refuse(1, 2, error := refusal())
    assert waiter.result is error


def test_a_unit_takes_one_sequence_also_again() -> None:
    outbox, waiter = opened(), Waiter()
    outbox.add_unit({"publish": [("t", b"1"), ("t", b"2")]}, 50, waiter)
    (after,) = add(outbox, b"3")
    frames = sent(outbox)
    assert frames[0] == (wire.UNIT, 1, {"publish": (("t", b"1"), ("t", b"2"))})
    assert frames[1][1] == 2
    outbox.welcome(0, "ep")
    assert sent(outbox) == frames
    outbox.confirm(1, [(1, 2, 10, 7)], [])
    outbox.confirm(2, [(2, 1, 12, 7)], [])
    assert (waiter.result.offset, after.result.offset) == (10, 12)
    assert (outbox.count, outbox.size) == (0, 0)


def test_what_has_no_form_on_the_wire_fails_alone() -> None:
    outbox = opened()
    good = add(outbox, b"1")
    bad = [Waiter()]
    outbox.add(("\ud800", b"2"), bad[0])
    good += add(outbox, b"3")
    assert sent(outbox) == [(wire.PUBLISH, 1, (("t", b"1"), ("t", b"3")))]
    assert bad[0].result.code == "bad_message"
    outbox.confirm(2, [(1, 2, 10, 7)], [])
    assert [w.result.offset for w in good] == [10, 11]
    assert (outbox.count, outbox.size) == (0, 0)


def test_frames_keep_to_the_brokers_limit() -> None:
    outbox = opened()
    outbox.max_frame = 100
    waiters = add(outbox, b"x" * 60, b"y" * 60, b"z" * 200, b"w")
    frames = sent(outbox)
    assert [[body[:1] for _, body in frame[2]] for frame in frames] == [[b"x"], [b"y"], [b"w"]]
    assert [frame[1] for frame in frames] == [1, 2, 3]
    assert waiters[2].result.code == "frame_too_large"


def test_a_full_window_has_room_again_after_confirms() -> None:
    outbox = opened(limit=2)
    add(outbox, b"1")
    assert not outbox.full
    add(outbox, b"2")
    assert outbox.full
    sent(outbox)
    outbox.confirm(1, [(1, 1, 1, 1)], [])
    assert not outbox.full


def test_the_end_tells_everybody() -> None:
    outbox, waiter = opened(), Waiter()
    waiters = add(outbox, b"1")
    sent(outbox)
    outbox.add_group([("t", b"2")], Group(waiter, 1), 0)
    outbox.abandon(error := refusal("closed"))
    assert [w.result for w in [*waiters, waiter]] == [error, error]
    assert (outbox.count, outbox.size) == (0, 0)


def test_receipts_show_themselves() -> None:
    receipt = Receipt(10, 1_700_000_000_000, "ep", None)
    assert "offset=10" in repr(receipt)
    assert Receipt(None, None, "ep", None).id is None


class Broker:
    """What a broker does to an outbox, at random: takes frames in order, commits some, loses connections."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.committed: list[bytes] = []
        self.refused: set[bytes] = set()
        self.refusals: list[tuple[int, int, str]] = []
        self.sequence = 0  # last committed
        self.expected = 1
        self.taken: list[tuple[int, bytes]] = []

    def take(self, frames: list[tuple[Any, ...]]) -> None:
        for frame in frames:
            assert frame[1] == self.expected, "a gap in the sequences"
            bodies = [m[1] for m in frame[2]]
            self.taken += [(self.expected + i, body) for i, body in enumerate(bodies)]
            self.expected += len(bodies)

    def commit(self, outbox: Outbox, *, heard: bool) -> None:
        size = self.chance.randint(0, len(self.taken))
        unit, self.taken = self.taken[:size], self.taken[size:]
        runs = []
        for sequence, body in unit:
            if self.chance.random() < 0.1:
                self.refused.add(body)
                self.refusals.append((sequence, 1, "contract_broken"))
                if heard:
                    outbox.refuse(sequence, 1, refusal())
            else:
                self.committed.append(body)
                runs.append((sequence, 1, len(self.committed), 7))
        if unit:
            self.sequence = unit[-1][0]
            if heard:
                outbox.confirm(self.sequence, runs, [])

    def lose(self, outbox: Outbox) -> None:
        while self.chance.random() < 0.5 and self.taken:
            self.commit(outbox, heard=False)
        self.taken.clear()
        self.expected = self.sequence + 1
        outbox.welcome(self.sequence, "ep", self.refusals)


@pytest.mark.parametrize("seed", range(40))
def test_each_message_is_stored_once_in_order_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    outbox, broker = opened(), Broker(chance)
    waiters: dict[bytes, Waiter] = {}
    for step in range(300):
        if chance.random() < 0.6:
            body = b"%d" % step
            (waiters[body],) = add(outbox, body)
        if chance.random() < 0.5:
            broker.take(sent(outbox))
        if chance.random() < 0.4:
            broker.commit(outbox, heard=True)
        if chance.random() < 0.05:
            broker.lose(outbox)
    broker.take(sent(outbox))
    while outbox.count:
        broker.commit(outbox, heard=True)
    assert len(broker.committed) == len(set(broker.committed))
    assert broker.committed == sorted(broker.committed, key=int)
    for body, waiter in waiters.items():
        assert isinstance(waiter.result, PostroomError) == (body in broker.refused)
        assert (body in broker.committed) == (body not in broker.refused)
    assert outbox.size == 0


def test_a_future_will_do_as_waiter() -> None:
    async def main() -> None:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        outbox = opened()
        outbox.add(("t", b"1"), future)
        future.cancel()
        outbox.frames()
        outbox.confirm(1, [(1, 1, 1, 1)], [])
        assert outbox.count == 0

    asyncio.run(main())
