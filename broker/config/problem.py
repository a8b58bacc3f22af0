"""What is wrong with a configuration, in words for its author: the key, what is there, what fits. Floor 5."""

import difflib
import re
import types
import typing
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from broker.observe.log import is_secret_name

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """`key` as it is written in the file; `text` says what is wrong and the mend."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` names each key and the mend."""

    def __init__(self, source: Path | None, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        where = str(source) if source else "the configuration"
        super().__init__("\n".join([f"{where} cannot be used:", *(f"  {problem}" for problem in problems)]))


def key_of(*path: str | int) -> str:
    """`limits.max_body`, `drop[0].folder`, `topics."orders/#".age`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _PLAIN.fullmatch(part) else f'"{part}"')
    return text


def problems_of(model: type[BaseModel], error: ValidationError, secrets: Collection[str] = ()) -> list[Problem]:
    """Each thing that pydantic found, in our words; values that may be secret are not shown."""
    found = error.errors(include_url=False)
    return [Problem(key_of(*item["loc"]), _text(model, item, secrets)) for item in found if not _follows(item, found)]


def _follows(item: ErrorDetails, found: Collection[ErrorDetails]) -> bool:
    """Is it that a list is too short, whose items were left out because of problems of their own?"""
    above = item["loc"]
    inside = (other["loc"] for other in found if other is not item)
    return item["type"] == "too_short" and any(where[: len(above)] == above for where in inside)


def _text(model: type[BaseModel], item: ErrorDetails, secrets: Collection[str]) -> str:
    *above, last = item["loc"] or ("",)
    if item["type"] == "extra_forbidden":
        return _unknown(str(last), sorted(_keys_at(model, above)), _homes(model, str(last)))
    if item["type"] == "missing":
        return "is missing; set it"
    if item["type"] == "too_short":
        return f"is too short; give at least {item['ctx']['min_length']}"
    text = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    given = item["input"]
    shown = isinstance(given, (int, float)) or (isinstance(given, str) and len(given) <= 60)
    if item["type"] == "value_error" or not shown or is_secret_name(str(last)) or str(given) in secrets:
        return text
    return f"{text}, not {given!r}"


def _unknown(key: str, known: list[str], homes: list[str]) -> str:
    if homes:
        return f"unknown key here; it stands in {' and in '.join(homes)}"
    close = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; there are {', '.join(known)}"


def _homes(model: type[BaseModel], key: str) -> list[str]:
    """The sections that have this very key."""
    sections = (name for name, field in model.model_fields.items() if field.annotation in _models_in(field.annotation))
    return [f"[{name}]" for name in sections if key in _keys_at(model, [name])]


def _keys_at(model: type[BaseModel], path: Sequence[str | int]) -> set[str]:
    """The keys that a table may have, found by walking the models along the path."""
    models = [model]
    for part in path:
        if isinstance(part, int):
            continue
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        # A part that is no field is a key of a map or the tag of a union: the models stay the same.
        models = [m for f in fields for m in _models_in(f.annotation)] or models
    return {field.alias or name for m in models for name, field in m.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]
