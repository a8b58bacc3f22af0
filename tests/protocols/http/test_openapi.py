"""The reference is made of the routes, and true."""

import json
import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from broker.core.errors import Code
from broker.core.spec import parse_spec
from broker.protocols.http.models import Settings
from broker.protocols.http.openapi import document
from broker.protocols.http.operation import Answer, Operation, Parameter, Tag, Whole, path_part
from broker.protocols.http.router import Route
from tests.protocols.http.conftest import Door


async def nothing(request: object, part: str) -> Any:
    raise AssertionError


@pytest.fixture
async def openapi(door: Door) -> Any:
    answer = await door("GET", "/openapi.json")
    assert answer.status == 200
    return answer.json


def operations(openapi: Any) -> list[tuple[str, str, Any]]:
    return [(path, method, op) for path, methods in openapi["paths"].items() for method, op in methods.items()]


def test_the_document_says_what_stands_beside_the_route() -> None:
    operation = Operation(
        Tag.BROKER,
        "Look",
        {200: Answer("Seen.", media="text/plain")},
        "At it.",
        (
            path_part("name", "Of the thing.", "x"),
            Whole.of("limit", "At most.", 1, 9, 3),
            Parameter("after", "Behind."),
        ),
    )
    made = document([Route("GET", "/things/{name}", nothing, "look", operation)])["paths"]["/things/{name}"]["get"]
    assert (made["operationId"], made["summary"], made["description"]) == ("look", "Look", "At it.")
    assert made["responses"]["200"] == {
        "description": "Seen.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    assert [p["name"] for p in made["parameters"]] == ["name", "limit", "after"]
    assert made["parameters"][1]["schema"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 3}


async def test_the_document_is_valid(openapi: Any) -> None:
    OpenAPIV31SpecValidator(openapi).validate()


async def test_it_says_how_to_say_who_one_is(openapi: Any) -> None:
    assert {scheme["scheme"] for scheme in openapi["components"]["securitySchemes"].values()} == {"bearer", "basic"}
    open_to_all = {path for path, _, operation in operations(openapi) if operation.get("security") == []}
    assert {"/livez", "/readyz"} <= open_to_all
    assert not [path for path in open_to_all if path.startswith("/v1/")]


async def test_every_route_is_in_it(door: Door, openapi: Any) -> None:
    routes = {(route.path, route.method.lower()) for route in door.server.routes}
    assert {(path, method) for path, method, _ in operations(openapi)} == routes
    assert len(routes) > 20


async def test_every_operation_can_be_understood(openapi: Any) -> None:
    names = [operation["operationId"] for _, _, operation in operations(openapi)]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in openapi["tags"]}
    for path, _, operation in operations(openapi):
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
        assert {"4XX", "5XX"} < set(operation["responses"])
        named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))
        assert all(p["description"] for p in operation.get("parameters", []))


async def test_a_parameter_that_is_not_in_it_is_refused(door: Door, openapi: Any) -> None:
    answer = await door("GET", "/livez?x=1")
    assert (answer.status, answer.code) == (400, "bad_request")
    answer = await door("POST", "/v1/topics/a/messages?priority=3", b"1")
    assert (answer.status, answer.code) == (400, "bad_request")
    assert not door.engine.topics()


async def test_problems_name_every_code(openapi: Any) -> None:
    codes = openapi["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert set(codes) == {code.value for code in Code}


def test_the_settings_of_a_subscription_are_those_that_are_read() -> None:
    names = {field.alias or name for name, field in Settings.model_fields.items()}
    values: dict[str, Any] = dict.fromkeys(names) | {"kind": "queue", "topics": ["a"]}
    spec = parse_spec("x", values | {"ordered": False, "fair": False, "single_active": False})
    with pytest.raises(Exception, match="there are ") as caught:
        parse_spec("x", {"nothing": 1})
    known = set(str(caught.value).partition("there are ")[2].split(", ")) - {"name"}
    assert names == known
    assert spec.topics == ("a",)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/docs", "text/html"), ("/docs/reference.css", "text/css"), ("/docs/reference.js", "text/javascript")],
)
async def test_the_page_needs_nobody_else(door: Door, path: str, kind: str) -> None:
    answer = await door("GET", path)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(kind)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = answer.body.decode()
    assert not re.search(r"https?://", text)
    if kind == "text/html":
        assert not re.search(r"<script(?![^>]*\ssrc=)", text)
        assert " style=" not in text
        assert not re.search(r"\son\w+=", text)
        for target in re.findall(r'(?:src|href)="([^"]+)"', text):
            assert (await door("GET", target)).status == 200


async def test_it_is_made_once(door: Door) -> None:
    first, second = [(await door("GET", "/openapi.json")).body for _ in range(2)]
    assert first == second
    assert json.loads(first)["openapi"].startswith("3.1")
