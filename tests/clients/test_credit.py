from postroom_client.credit import BYTES, QUICK, SLOW, Credit


def worked(credit: Credit, count: int, now: float, size: int = 1, *, idle: bool = False) -> tuple[int, int] | None:
    for _ in range(count):
        credit.spend(size)
    return credit.due(now, idle=idle)


def test_a_fixed_window_is_given_back_by_halves() -> None:
    credit = Credit(10)
    assert credit.opening(0) == (10, BYTES)
    assert worked(credit, 4, 1) is None
    assert worked(credit, 1, 1) == (5, 5)
    assert worked(credit, 0, 1) is None


def test_with_nothing_left_to_do_everything_is_given_back() -> None:
    credit = Credit(10)
    credit.opening(0)
    assert worked(credit, 1, 1, size=7, idle=True) == (1, 7)


def test_big_bodies_are_given_back_early() -> None:
    credit = Credit(100, size=1000)
    credit.opening(0)
    assert worked(credit, 1, 1, size=499) is None
    assert worked(credit, 1, 1, size=1) == (2, 500)


def test_a_quick_worker_gets_more_a_slow_one_less() -> None:
    credit = Credit(8, most=32)
    credit.opening(0)
    now = QUICK / 2
    assert worked(credit, 4, now) == (4 + 8, 4)
    now += QUICK / 2
    assert worked(credit, 8, now) == (8 + 16, 8)
    now += QUICK / 2
    assert worked(credit, 16, now) == (16, 16)
    assert credit.window == 32
    now += SLOW * 2
    assert worked(credit, 16, now) is None  # the window shrank by what was worked off
    assert credit.window == 16
    now += SLOW * 2
    assert worked(credit, 16, now) == (8, 32)
    assert credit.window == 8
    now += SLOW * 2
    assert worked(credit, 4, now) == (4, 4)


def test_a_fresh_attachment_opens_the_whole_window_again() -> None:
    credit = Credit(10)
    credit.opening(0)
    credit.spend(1)
    assert credit.opening(1) == (10, BYTES)
    assert credit.due(1, idle=True) is None
