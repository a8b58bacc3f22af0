"""The table of errors is whole, and what it says fits the doors that quote it."""

import pytest

from broker.core.errors import KINDS, BrokerError, Code


def test_every_code_has_a_kind_and_no_kind_is_left_over() -> None:
    assert set(KINDS) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_kinds_are_errors_at_every_door(code: Code) -> None:
    kind = KINDS[code]
    assert kind.sentence.endswith(".")
    assert 400 <= kind.http <= 599
    assert 0x80 <= kind.mqtt <= 0xFF
    assert code.value == code.name.lower()


def test_an_error_tells_sentence_and_detail() -> None:
    error = BrokerError(Code.QUEUE_FULL, "mail holds 10")
    assert error.kind is KINDS[Code.QUEUE_FULL]
    assert str(error) == "mail holds 10"
    assert error.text == f"{KINDS[Code.QUEUE_FULL].sentence} mail holds 10"


def test_an_error_without_detail_tells_its_sentence() -> None:
    error = BrokerError(Code.TIMEOUT)
    assert str(error) == error.text == KINDS[Code.TIMEOUT].sentence


def test_protocol_errors_close_and_refusals_of_one_thing_do_not() -> None:
    closing = {code for code, kind in KINDS.items() if kind.closes}
    assert {Code.BAD_FRAME, Code.FRAME_TOO_LARGE, Code.NOT_GREETED, Code.UNSUPPORTED_VERSION} <= closing
    assert not closing & {Code.BAD_TOPIC, Code.QUEUE_FULL, Code.LEASE_LOST, Code.DISK_LOW, Code.UNKNOWN_SUBSCRIPTION}


def test_what_passes_is_worth_asking_again_and_what_is_wrong_is_not() -> None:
    passing = {code for code in Code if BrokerError(code).passing}
    assert {Code.QUEUE_FULL, Code.DISK_LOW, Code.RATE_LIMITED, Code.OVERLOADED, Code.STORAGE_FAILED} <= passing
    assert {Code.TIMEOUT, Code.SHUTTING_DOWN} <= passing
    assert not passing & {Code.MESSAGE_TOO_LARGE, Code.BAD_TOPIC, Code.FORBIDDEN, Code.QUOTA_EXCEEDED, Code.INTERNAL}
