import pytest

from broker.connectors.webhook.answer import LONGEST_WAIT, excerpt_of, judge, parse_retry_after

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        (None, None),
        ("0", 0),
        ("120", 120_000),
        (" 7 ", 7_000),
        ("99999999999999999999", LONGEST_WAIT),
        ("Fri, 15 Jan 2027 08:01:40 GMT", 100_000),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Fri, 15 Jan 2038 07:00:00 GMT", LONGEST_WAIT),
        ("Fri, 15 Jan 2027 08:01:40 -0000", 100_000),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after(text: str | None, wait: int | None) -> None:
    assert parse_retry_after(text, NOW) == wait


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_takes_the_message(status: int) -> None:
    assert judge(status, "10", None, "ok", NOW).error == ""


def test_the_other_answers() -> None:
    assert judge(410, None, None, "", NOW).gone
    moved = judge(308, "5", "https://elsewhere/", "", NOW)
    assert "https://elsewhere/" in moved.error
    assert judge(308, None, "/\udcff\r", "", NOW).error.endswith("webhook.url to /\N{REPLACEMENT CHARACTER}")
    assert not moved.gone
    busy = judge(503, "5", None, "later", NOW)
    assert (busy.error, busy.retry_after, busy.status) == ("503: later", 5_000, 503)
    assert judge(500, None, None, "", NOW).error == "500"


def test_excerpts_are_one_printable_line() -> None:
    assert excerpt_of(b"<b>\x00no\r\n  way\xff</b>") == "<b> no way\ufffd</b>"
    assert len(excerpt_of(b"x" * 5000)) == 200
