"""Offsets in bulk: pages of 65,536, and small integers kept per offset without an object each. Floor 0."""

from array import array
from collections.abc import Sequence

from pyroaring import BitMap64

PAGE_BITS = 16
PAGE_SIZE = 1 << PAGE_BITS
_LOW = PAGE_SIZE - 1


def page_of(offset: int) -> int:
    """The page that an offset lies in."""
    return offset >> PAGE_BITS


def pages_of(offsets: Sequence[int]) -> set[int]:
    """The pages that these offsets lie in; cheap for offsets that rise."""
    first, last = offsets[0] >> PAGE_BITS, offsets[-1] >> PAGE_BITS
    if len(offsets) == 1:
        return {first}
    if first == last and min(offsets) >> PAGE_BITS == first == max(offsets) >> PAGE_BITS:
        return {first}
    return {offset >> PAGE_BITS for offset in offsets}


def add_rising(bitmap: BitMap64, offsets: Sequence[int]) -> None:
    """Add offsets that strictly rise; a run without gaps costs one call."""
    first, last = offsets[0], offsets[-1]
    if last - first == len(offsets) - 1:
        bitmap.add_range(first, last + 1)
    else:
        bitmap.update(offsets)


class PerOffset:
    """A whole number for each of many offsets, 0 where none was given: an array per page, dropped by page.

    A million offsets take 8 MB, where a dict would take 100.
    """

    def __init__(self, typecode: str = "q") -> None:
        self._typecode = typecode
        self._pages: dict[int, array[int]] = {}

    def __setitem__(self, offset: int, value: int) -> None:
        page = self._pages.get(offset >> PAGE_BITS)
        if page is None:
            page = self._pages[offset >> PAGE_BITS] = array(self._typecode, bytes(PAGE_SIZE * 8))
        page[offset & _LOW] = value

    def put(self, offsets: Sequence[int], values: Sequence[int]) -> None:
        """One for each of these offsets, which strictly rise; a run without gaps costs a call for each page."""
        at, first, last = 0, offsets[0], offsets[-1]
        if last - first != len(offsets) - 1:
            for offset, value in zip(offsets, values, strict=True):
                self[offset] = value
            return
        while first <= last:
            self[first] = values[at]  # so that its page is there
            low = first & _LOW
            count = min(last - first + 1, PAGE_SIZE - low)
            self._pages[first >> PAGE_BITS][low : low + count] = array(self._typecode, values[at : at + count])
            at, first = at + count, first + count

    def __getitem__(self, offset: int) -> int:
        page = self._pages.get(offset >> PAGE_BITS)
        return 0 if page is None else page[offset & _LOW]

    def sum(self, offsets: Sequence[int]) -> int:
        """The sum of the numbers of these offsets, each of which comes once; without gaps it costs a call for each
        page."""
        if not offsets:
            return 0
        first, last = min(offsets), max(offsets)
        if last - first != len(offsets) - 1:
            return sum([self[offset] for offset in offsets])
        found = 0
        while first <= last:
            low, page = first & _LOW, self._pages.get(first >> PAGE_BITS)
            count = min(last - first + 1, PAGE_SIZE - low)
            if page is not None:
                found += sum(page[low : low + count])
            first += count
        return found

    def forget_below(self, offset: int) -> None:
        """Drop the pages that lie wholly below an offset."""
        below = offset >> PAGE_BITS
        for page in [p for p in self._pages if p < below]:
            del self._pages[page]
