"""Receipts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.protocols.http.receipt import Receipt, Receipts

NUMBERS = st.integers(0, (1 << 63) - 1)


@given(NUMBERS, NUMBERS)
def test_every_receipt_is_read_as_it_was_made(offset: int, lease: int) -> None:
    receipts = Receipts("q", "epoch")
    assert receipts.read(receipts.make(Receipt(offset, lease))) == Receipt(offset, lease)


@pytest.mark.parametrize(("queue", "epoch"), [("other", "epoch"), ("q", "other")])
def test_a_receipt_of_another_queue_or_log_is_refused(queue: str, epoch: str) -> None:
    text = Receipts(queue, epoch).make(Receipt(1, 2))
    with pytest.raises(BrokerError, match="another queue"):
        Receipts("q", "epoch").read(text)


@given(st.text() | st.none() | st.integers() | st.lists(st.text()))
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(BrokerError) as caught:
        Receipts("q", "epoch").read(text)
    assert caught.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize("part", ["x", "", "+1", "-1", " 1", "1_0", "٣", "f" * 16, "f" * 40])
def test_numbers_are_plain_and_bounded(part: str) -> None:
    receipts = Receipts("q", "epoch")
    mark = receipts.make(Receipt(1, 2)).rpartition("-")[2]
    for text in (f"{part}-1-{mark}", f"1-{part}-{mark}"):
        with pytest.raises(BrokerError):
            receipts.read(text)
