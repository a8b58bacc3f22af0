"""The OpenAPI 3.1 document, made from the routes: what is not written beside a route is not in it. Floor 4."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from broker import __version__
from broker.protocols.http.models import Problem
from broker.protocols.http.operation import JSON, Answer, Body, Parameter, Tag
from broker.protocols.http.problem import CONTENT_TYPE
from broker.protocols.http.router import Route

REFERENCE = "#/components/schemas/{model}"
ABOUT = (
    "Publish, work a queue, follow a stream and look after it all with nothing but HTTP. Every 2xx answer to what"
    " changes something comes after the commit: it is on disk, fsynced. What is refused is told by a problem document"
    " (RFC 9457) whose `code` is stable.\n\n"
    "Topics keep their slashes in paths, written plainly or as `%2F`. In a query `*` stands for the wildcard `+` and a"
    " last `**` for `#`. Durations are seconds (`30`, `0.5`) or `500ms 30s 5m 2h 7d`. Times are RFC 3339."
)

SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token, `pr_…`; an admin makes it."},
    "password": {
        "type": "http",
        "scheme": "basic",
        "description": "User and password; a token may stand in its place.",
    },
}
"""How clients say who they are. Without `[auth]` in the configuration those on this machine need not."""


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document, as plain values."""
    paths: dict[str, dict[str, Any]] = {}
    schemas = _Schemas()
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    problem = {"description": "Refused.", "content": {CONTENT_TYPE: {"schema": schemas.of(Problem)}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Postroom", "version": __version__, "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag.value} for tag in Tag],
        "security": [{"token": []}, {"password": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "responses": {"Problem": problem},
            "securitySchemes": SECURITY,
        },
    }


def _operation(route: Route, schemas: "_Schemas") -> dict[str, Any]:
    operation = route.operation
    answers: dict[str, Any] = {str(status): _answer(answer, schemas) for status, answer in operation.answers.items()}
    for status in ("4XX", "5XX"):
        answers[status] = {"$ref": "#/components/responses/Problem"}
    found: dict[str, Any] = {
        "operationId": route.name,
        "tags": [operation.tag.value],
        "summary": operation.summary,
        "responses": answers,
    }
    if route.open:
        found["security"] = []
    if operation.about:
        found["description"] = operation.about
    if operation.parameters:
        found["parameters"] = [_parameter(p) for p in operation.parameters]
    if operation.body is not None:
        found["requestBody"] = _body(operation.body, schemas)
    return found


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = dict(parameter.schema)
    found: dict[str, Any] = {"name": parameter.name, "in": parameter.place, "description": parameter.about}
    if parameter.required:
        found["required"] = True
    if parameter.example is not None:
        found["example"] = parameter.example
    found["schema"] = schema
    return found


def _body(body: Body, schemas: "_Schemas") -> dict[str, Any]:
    content = {media: {"schema": schemas.of(model)} for media, model in body.content.items()}
    if body.example is not None:
        next(iter(content.values()))["example"] = body.example
    found: dict[str, Any] = {"required": body.required, "content": content}
    return {"description": body.about, **found} if body.about else found


def _answer(answer: Answer, schemas: "_Schemas") -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.about}
    if answer.model is not None:
        found["content"] = {JSON: {"schema": schemas.of(answer.model)}}
    elif answer.media is not None:
        found["content"] = {answer.media: {"schema": {"type": "string"}}}
    if answer.headers:
        found["headers"] = {
            n: {"description": about, "schema": {"type": "string"}} for n, about in answer.headers.items()
        }
    return found


class _Plain(GenerateJsonSchema):
    """Without titles that only repeat names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


class _Schemas:
    """Those that were referred to, by name."""

    def __init__(self) -> None:
        self._named: dict[str, Any] = {}

    def of(self, model: Any) -> dict[str, Any]:
        """The schema of a type: a reference for a class of `models`. A mapping is one already; None is anything."""
        if model is None or isinstance(model, Mapping):
            return dict(model or {})
        schema = TypeAdapter(model).json_schema(ref_template=REFERENCE, schema_generator=_Plain)
        self._named |= schema.pop("$defs", {})
        if not isinstance(model, type) or hasattr(model, "__origin__"):
            return schema
        self._named[model.__name__] = schema
        return {"$ref": REFERENCE.format(model=model.__name__)}

    def components(self) -> dict[str, Any]:
        """By name."""
        return dict(sorted(self._named.items()))
