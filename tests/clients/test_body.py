import dataclasses
import datetime as dt
from typing import Any, TypedDict

import pydantic
import pytest
from postroom_client.body import JSON, TEXT, decode_body, decode_with, decoder_of, encode_body
from postroom_client.errors import DecodeFailed


@dataclasses.dataclass
class Order:
    number: int
    note: str = ""


class Checked(pydantic.BaseModel):
    number: int


class Shape(TypedDict):
    number: int


@pytest.mark.parametrize(
    ("body", "packed", "kind"),
    [
        (b"\x00\xff", b"\x00\xff", None),
        (bytearray(b"ab"), b"ab", None),
        (memoryview(b"ab"), b"ab", None),
        ("grüß", "grüß".encode(), TEXT),
        ({"a": [1, None]}, b'{"a":[1,null]}', JSON),
        ([], b"[]", JSON),
        (7, b"7", JSON),
        (None, b"null", JSON),
        (Order(7), b'{"number":7,"note":""}', JSON),
        ([Order(7)], b'[{"number":7,"note":""}]', JSON),
        (Checked(number=7), b'{"number":7}', JSON),
        ({"c": Checked(number=7)}, b'{"c":{"number":7}}', JSON),
        ({"at": dt.date(2026, 11, 23)}, b'{"at":"2026-11-23"}', JSON),
    ],
)
def test_bodies_become_bytes(body: Any, packed: bytes, kind: str | None) -> None:
    assert encode_body(body) == (packed, kind)


def test_what_json_cannot_say_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="object has no form in JSON"):
        encode_body({"a": object()})


@pytest.mark.parametrize(
    ("body", "kind", "value"),
    [
        (b"{}", None, b"{}"),
        (b'{"a":1}', JSON, {"a": 1}),
        (b'{"a":1}', "Application/JSON; charset=utf-8", {"a": 1}),
        (b"[1]", "application/problem+json", [1]),
        ("ä".encode(), "text/csv", "ä"),
        (b"GIF8", "image/gif", b"GIF8"),
    ],
)
def test_bytes_become_what_the_content_type_says(body: bytes, kind: str | None, value: Any) -> None:
    assert decode_body(body, kind) == value


@pytest.mark.parametrize(("body", "kind"), [(b"{", JSON), (b"\xff", "text/plain")])
def test_a_body_that_is_not_what_it_says(body: bytes, kind: str) -> None:
    with pytest.raises(DecodeFailed):
        decode_body(body, kind)


@pytest.mark.parametrize(
    ("wanted", "body", "value"),
    [
        (bytes, b"x", b"x"),
        (str, "ä".encode(), "ä"),
        (int, b"7", 7),
        (float, b"7", 7),
        (dict, b'{"number":7}', {"number": 7}),
        (list[int], b"[7]", [7]),
        (Shape, b'{"number":7}', {"number": 7}),
        (Any, b"7", 7),
        (Order, b'{"number":7}', Order(7)),
        (Checked, b'{"number":7}', Checked(number=7)),
        (Checked.model_validate_json, b'{"number":7}', Checked(number=7)),
        (len, b"four", 4),
    ],
)
def test_decoders(wanted: Any, body: bytes, value: Any) -> None:
    assert decode_with(decoder_of(wanted), body) == value


@pytest.mark.parametrize(
    ("wanted", "body"), [(int, b'"7"'), (dict, b"[]"), (Order, b'{"number":7,"x":1}'), (Checked, b"{}"), (str, b"\xff")]
)
def test_a_body_of_another_type_fails(wanted: Any, body: bytes) -> None:
    with pytest.raises(DecodeFailed, match="the body is not"):
        decode_with(decoder_of(wanted), body)


def test_what_is_no_decoder() -> None:
    with pytest.raises(TypeError, match="pass a callable of bytes, or a type"):
        decoder_of("order")
