"""What a consumer holds: begun only after it was reported, kept over a lost connection, acked twice rather than worked
twice."""

from typing import Any

import pytest
from postroom_client import wire
from postroom_client.credit import Credit
from postroom_client.errors import LeaseLost
from postroom_client.inbox import MOMENT, MOST_ANNOUNCED, Inbox
from postroom_client.message import Message, Row


class Owner:
    """The part of a Consumer that a message looks at."""

    epoch = "ep"
    decoder = None

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox


class Desk:
    """An inbox with its owner and a clock."""

    def __init__(self, window: int = 100) -> None:
        self.inbox = Inbox(7, Credit(window))
        self.owner: Any = Owner(self.inbox)
        self.now = 100.0
        self.inbox.opening(self.now)

    def deliver(self, *offsets: int, tries: dict[int, tuple[int, int]] | None = None) -> None:
        self.inbox.deliver([row(offset) for offset in offsets], tries)

    def frames(self) -> list[tuple[Any, ...]]:
        return self.inbox.frames(self.now)

    def begin(self) -> list[int]:
        """Announce, and what that reports."""
        self.inbox.announce(self.now)
        return [offset for frame in self.frames() if frame[0] == wire.STARTED for offset in frame[2]]

    def take(self) -> Message:
        if not self.inbox.cleared:
            self.begin()
        return self.inbox.take(self.owner)


def row(offset: int) -> Row:
    return (offset, "t", 1, None, b"xy")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_nothing_begins_before_its_report_is_written(desk: Desk) -> None:
    desk.deliver(1, 2)
    assert not desk.inbox.cleared
    assert desk.inbox.announce(desk.now)
    assert not desk.inbox.cleared
    assert not desk.inbox.announce(desk.now)  # one at a time
    assert desk.frames() == [(wire.STARTED, 7, [1])]
    assert desk.inbox.cleared
    assert desk.take().offset == 1
    assert not desk.inbox.cleared


def test_quick_work_is_reported_further_ahead_slow_work_singly(desk: Desk) -> None:
    desk.deliver(*range(1, 200))
    sizes = []
    for _ in range(8):
        sizes.append(len(desk.begin()))
        for _ in range(sizes[-1]):
            desk.take()
        desk.now += MOMENT / 2
    assert sizes == [1, 2, 4, 8, 16, 32, MOST_ANNOUNCED, MOST_ANNOUNCED]
    desk.now += MOMENT
    assert len(desk.begin()) == 1


def test_what_was_delivered_before_is_reported_alone(desk: Desk) -> None:
    desk.deliver(*range(1, 40), tries={5: (0, 1), 6: (2, 3)})
    reports = []
    for _ in range(6):
        reports.append(desk.begin())
        for _ in reports[-1]:
            desk.take()
    assert reports == [[1], [2, 3], [4], [5], [6], [*range(7, 39)]]


def test_messages_know_how_often_they_failed(desk: Desk) -> None:
    desk.deliver(1, 2, tries={1: (2, 3)})
    first, second = desk.take(), desk.take()
    assert (first.attempts, first.deliveries, first.attempt) == (2, 3, 3)
    assert (second.attempts, second.attempt) == (0, 1)


def test_settles_of_one_turn_leave_together(desk: Desk) -> None:
    desk.deliver(*range(1, 7))
    messages = [desk.take() for _ in range(6)]
    for message in messages[:2]:
        desk.inbox.ack(message)
    desk.inbox.settle(messages[2], ("retry", 500, "oh"))
    desk.inbox.settle(messages[3], ("retry", 500, "oh"))
    desk.inbox.settle(messages[4], ("reject", None, None))
    assert desk.frames() == [
        (wire.SETTLE, 7, "ack", [1, 2]),
        (wire.SETTLE, 7, "retry", [3, 4], {"delay": 500, "error": "oh"}),
        (wire.SETTLE, 7, "reject", [5]),
        (wire.CREDIT, 7, 5, 10),
    ]
    assert desk.inbox.in_hand == 1


def test_a_message_is_settled_once(desk: Desk) -> None:
    desk.deliver(1)
    message = desk.take()
    desk.inbox.ack(message)
    with pytest.raises(LeaseLost):
        desk.inbox.ack(message)
    assert desk.frames()[0] == (wire.SETTLE, 7, "ack", [1])


def test_closing_releases_what_nobody_has_begun(desk: Desk) -> None:
    desk.deliver(1, 2, 3)
    message = desk.take()
    desk.inbox.close()
    desk.deliver(4)
    assert desk.frames() == [(wire.SETTLE, 7, "release", [2, 3, 4])]
    assert not desk.inbox.cleared
    desk.inbox.ack(message)
    assert desk.frames() == [(wire.SETTLE, 7, "ack", [1])]  # and no more credit


def test_leases_of_all_that_is_held_are_prolonged(desk: Desk) -> None:
    desk.deliver(1, 2, 3)
    desk.take()
    assert desk.inbox.leased() == [1, 2, 3]


def test_work_in_hand_takes_over_the_new_lease(desk: Desk) -> None:
    desk.deliver(1, 2)
    message = desk.take()
    desk.inbox.lost()
    assert (desk.inbox.waiting, desk.inbox.in_hand, desk.inbox.leased()) == (0, 1, [])
    desk.inbox.opening(desk.now)
    desk.deliver(1, 2, tries={1: (0, 1)})
    assert desk.inbox.waiting == 1  # 2 alone: 1 is being worked on
    assert desk.inbox.leased() == [1, 2]
    desk.inbox.ack(message)
    assert (wire.SETTLE, 7, "ack", [1]) in desk.frames()


def test_work_that_ends_without_a_connection_is_settled_on_the_next(desk: Desk) -> None:
    desk.deliver(1)
    message = desk.take()
    desk.inbox.lost()
    desk.inbox.ack(message)
    desk.inbox.opening(desk.now)
    assert desk.frames() == [(wire.SETTLE, 7, "ack", [1])]


def test_credit_of_a_lost_connection_is_not_given_twice(desk: Desk) -> None:
    desk.deliver(1, 2)
    old, adopted = desk.take(), desk.take()
    desk.inbox.lost()
    desk.inbox.opening(desk.now)
    desk.deliver(2)
    desk.inbox.ack(old)
    desk.inbox.ack(adopted)
    assert desk.frames() == [(wire.SETTLE, 7, "ack", [1, 2]), (wire.CREDIT, 7, 1, 2)]


def test_on_a_connection_that_ends_nothing_more_begins(desk: Desk) -> None:
    desk.deliver(1, 2)
    message = desk.take()
    desk.inbox.pause()
    desk.deliver(3)
    assert desk.inbox.waiting == 0
    desk.inbox.ack(message)
    assert desk.frames() == [(wire.SETTLE, 7, "ack", [1])]
    desk.inbox.lost()
    desk.deliver(2)
    assert desk.inbox.waiting == 1


def test_a_delivery_that_crosses_the_late_ack_is_not_worked_again(desk: Desk) -> None:
    desk.deliver(1)
    message = desk.take()
    desk.inbox.lost()
    desk.inbox.opening(desk.now)
    desk.inbox.ack(message)
    assert desk.frames() == [(wire.SETTLE, 7, "ack", [1])]
    desk.deliver(1)
    assert desk.inbox.waiting == 0
    assert desk.frames() == [(wire.SETTLE, 7, "ack", [1]), (wire.CREDIT, 7, 1, 2)]


def test_a_lost_ack_is_given_again_instead_of_the_work(desk: Desk) -> None:
    desk.deliver(1, 2)
    desk.inbox.ack(desk.take())
    desk.frames()  # written; whether it arrived is not known
    desk.inbox.lost()
    desk.inbox.opening(desk.now)
    desk.deliver(1, 2)
    assert desk.inbox.waiting == 1
    assert (wire.SETTLE, 7, "ack", [1]) in desk.frames()
    assert desk.take().offset == 2


def test_another_log_says_nothing_about_ours(desk: Desk) -> None:
    desk.deliver(1, 2)
    message = desk.take()
    desk.inbox.ack(desk.take())
    desk.frames()
    desk.inbox.lost()
    desk.inbox.renewed()
    assert not desk.inbox.holds(message)
    desk.deliver(1, 2)
    assert desk.inbox.waiting == 2
