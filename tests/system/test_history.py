"""The judge is judged: each promise broken on purpose must be found, and a clean history must pass."""

import pytest

from tests.system.history import Delivered, Event, Gone, History, Judge, Logged, Restarted, Sent, Settled, Settling

A, B, C = ("p", 1), ("p", 2), ("p", 3)
LOG = [Logged(1, A, 50, "k"), Logged(2, B, 50, "k"), Logged(5, C, 50, "k")]


def history(*events: Event) -> History:
    return History({A: Sent("k"), B: Sent("k"), C: Sent("k")}, {A: 1, B: 2}, set(), list(events))


def came(offset: int, attempts: int = 0, consumer: int = 1) -> Delivered:
    return Delivered("q", offset, consumer, attempts)


def settling(offset: int, outcome: str = "ack") -> Settling:
    return Settling("q", offset, 1, outcome)


def done(offset: int, outcome: str = "ack") -> list[Event]:
    return [came(offset), settling(offset, outcome), Settled("q", offset, outcome)]


CLEAN: list[Event] = [*done(1), *done(2), *done(5)]


def faults(past: History, log: list[Logged] | None = None, dead: dict[int, list[int]] | None = None) -> list[str]:
    judge = Judge(past, LOG if log is None else log)
    judge.publishing()
    judge.publishers_order()
    judge.settling("q")
    judge.key_order("q", 3)
    judge.ends("q", dead or {}, 3, [logged.offset for logged in judge.log])
    return judge.faults


def test_a_clean_history_passes() -> None:
    assert faults(history(*CLEAN)) == []


def test_what_may_happen_around_a_crash_passes() -> None:
    events = [came(1), settling(1), came(2), Gone(1), Restarted(), *done(1), *done(2), *done(5)]
    assert faults(history(*events)) == []


@pytest.mark.parametrize(
    ("log", "fault"),
    [
        ([LOG[1], LOG[2]], "('p', 1) was confirmed and is lost"),
        ([Logged(3, A, 50), Logged(4, B, 50), LOG[2]], "('p', 1) was confirmed at 1 and is at [3]"),
        ([*LOG, Logged(6, C, 50)], "('p', 3) is there 2 times: [5, 6]"),
        ([*LOG, Logged(6, ("q", 1), 50)], "('q', 1) is there and was never sent"),
        ([Logged(1, A), Logged(2, B), Logged(3, ("p", 0)), Logged(5, C)], "('p', 0) is behind p's 2"),
    ],
)
def test_a_log_that_broke_a_promise(log: list[Logged], fault: str) -> None:
    past = history(*[event for logged in log for event in done(logged.offset)])
    assert fault in faults(past, log)


def test_a_refused_message_in_the_log() -> None:
    past = history(*CLEAN)
    past.refused.add(C)
    assert "('p', 3) is there and was refused" in faults(past)


def test_a_message_before_its_time() -> None:
    past = history(*CLEAN)
    past.sent[C] = Sent("k", due=80)
    assert faults(past) == ["('p', 3) came 30 ms before its time"]


def test_half_an_atomic_group() -> None:
    past = history(*done(1), *done(2))
    past.sent |= {B: Sent("k", group=7), C: Sent("k", group=7)}
    assert faults(past, LOG[:2]) == ["of the atomic group ('p', 7) 1 of 2 are there"]


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([*CLEAN, *done(2)], "q: 2 came again after its ack was answered"),
        ([came(1, 1), settling(1), *CLEAN[3:]], "q: 1 came with 1 attempts; 0 retries were answered, 0 sent"),
        ([*done(1, "retry"), came(1), *CLEAN[1:]], "q: 1 came with 0 attempts; 1 retries were answered, 1 sent"),
        ([Delivered("q", 1, 1, 0, 2), *CLEAN[1:]], "q: 1 came with 2 lost workers; none had begun"),
        ([came(1), *CLEAN[3:]], "q: 2 of k came while 1 was unfinished"),
        ([*done(1, "release"), *CLEAN[3:]], "q: 2 of k came while 1 was unfinished"),
        ([came(1), Gone(1), *CLEAN[3:]], "q: 2 of k came while 1 was unfinished"),
        ([*CLEAN[3:6], *CLEAN[:3], *CLEAN[6:]], "q: 2 of k came before 1"),
        (CLEAN[:6], "q: 5 never came"),
        ([*CLEAN[:6], came(5)], "q: 5 was not acked, is not dead, and does not come"),
        ([*CLEAN[:6], *done(5, "reject")], "q: the reject of 5 was answered, there is no dead letter"),
    ],
)
def test_a_queue_that_broke_a_promise(events: list[Event], fault: str) -> None:
    assert fault in faults(history(*events))


@pytest.mark.parametrize(
    ("last", "dead", "fault"),
    [
        (done(5, "reject"), {5: [1, 1]}, "q: 5 has 2 dead letters"),
        (done(5), {5: [1]}, "q: 5 is dead, its ack was answered"),
        (done(5), {5: [1]}, "q: 5 is dead of 0 retries and no reject"),
        (done(5, "reject"), {5: [0]}, "q: 5 is dead with a history of 0"),
    ],
)
def test_dead_letters_that_broke_a_promise(last: list[Event], dead: dict[int, list[int]], fault: str) -> None:
    assert fault in faults(history(*CLEAN[:6], *last), dead=dead)
