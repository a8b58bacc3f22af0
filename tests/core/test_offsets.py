"""Small numbers for many offsets: in bulk they are what they are one by one."""

from hypothesis import given
from hypothesis import strategies as st

from broker.core.offsets import PAGE_SIZE, PerOffset

STARTS = st.one_of(st.integers(0, 50), st.integers(PAGE_SIZE - 30, PAGE_SIZE + 30))
RUNS = st.tuples(STARTS, st.integers(1, 60)).map(lambda run: list(range(run[0], run[0] + run[1])))
GAPS = st.sets(STARTS, min_size=1, max_size=60).map(sorted)


@given(st.lists(st.tuples(RUNS | GAPS, st.integers(0, 1 << 40)), max_size=8), RUNS | GAPS, st.randoms())
def test_numbers_are_put_and_summed_in_bulk(
    puts: list[tuple[list[int], int]], asked: list[int], random: object
) -> None:
    found, plain = PerOffset(), dict[int, int]()
    for offsets, first in puts:
        values = [first + i for i in range(len(offsets))]
        found.put(offsets, values)
        plain.update(zip(offsets, values, strict=True))
    assert all(found[offset] == value for offset, value in plain.items())
    random.shuffle(asked)  # type: ignore[attr-defined]
    assert found.sum(asked) == sum(plain.get(offset, 0) for offset in asked)
    assert not found.sum([])


def test_a_run_longer_than_a_page() -> None:
    found = PerOffset()
    offsets = list(range(5, 2 * PAGE_SIZE + 9))
    found.put(offsets, [1] * len(offsets))
    assert found.sum(offsets) == len(offsets)
    assert found.sum(list(range(3 * PAGE_SIZE))) == len(offsets)
    found.forget_below(PAGE_SIZE)
    assert found.sum(offsets) == PAGE_SIZE + 9
