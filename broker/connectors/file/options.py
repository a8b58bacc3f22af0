"""`[[drop]]` of the configuration: one folder whose files become messages. Floor 4."""

import codecs
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from broker.core.errors import BrokerError
from broker.core.setting import Duration
from broker.core.topic import check_topic

_PATTERNS = {"csv": ("*.csv",), "ndjson": ("*.ndjson", "*.jsonl"), "whole": ("*",)}


class DropOptions(BaseModel):
    """Durations are stored in ms. A file is taken when it has looked the same at `stable_checks` polls and for
    `stable_for`, by our clock; links, hidden and unfinished files (`*.tmp`, `*.part` …) never are. `done` and `failed`
    are inside `path` unless absolute, and on its file system. `key`: the column (csv) or top-level field (ndjson) that
    becomes the message's key. `on_duplicate`: what happens to a file whose content this folder has published before;
    that is known for `remember`. `name` is what the ledger knows the folder by; give one if the path may change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    topic: str
    name: str = Field("", max_length=200)
    format: Literal["csv", "ndjson", "whole"] = "csv"
    pattern: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    poll: Annotated[Duration, Field(ge=50, le=3_600_000)] = 2_000
    stable_checks: int = Field(2, ge=1, le=100)
    stable_for: Annotated[Duration, Field(le=86_400_000)] = 5_000
    done: Path = Path("done")
    failed: Path = Path("failed")
    key: str | None = Field(None, min_length=1)
    batch: int = Field(500, ge=1, le=5_000)
    delimiter: str = Field(",", min_length=1, max_length=1)
    encoding: str = "utf-8"
    content_type: str | None = Field(None, min_length=1, max_length=255)
    on_duplicate: Literal["skip", "process", "error"] = "skip"
    remember: Duration = 90 * 86_400_000

    @field_validator("topic")
    @classmethod
    def _topic(cls, value: str) -> str:
        try:
            check_topic(value)
        except BrokerError as error:
            raise ValueError(error.text) from None
        if value.startswith("$"):
            raise ValueError("topics that begin with $ are the broker's own")
        return value

    @field_validator("pattern", mode="before")
    @classmethod
    def _pattern(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, value: str) -> str:
        """Lines are cut before they are decoded, so a line feed must be one byte; a BOM of UTF-8 is taken off."""
        try:
            name = codecs.lookup(value).name
            good = name in ("utf-8", "utf-8-sig") or "\n".encode(name) == b"\n"
        except (LookupError, UnicodeError):
            raise ValueError(f"no encoding {value!r}; there are utf-8, latin-1, cp1252 and Python's others") from None
        if not good:
            raise ValueError(f"{value} cannot be cut into lines safely; convert the files to UTF-8")
        return "utf-8" if name == "utf-8-sig" else name

    @field_validator("delimiter")
    @classmethod
    def _delimiter(cls, value: str) -> str:
        if value in '\r\n"' or not value.isascii():
            raise ValueError("delimiter must be one ASCII character, neither a quote nor a line end")
        return value

    @model_validator(mode="after")
    def _folders(self) -> "DropOptions":
        for name in ("done", "failed"):
            if os.path.normpath(self.path / getattr(self, name)) == os.path.normpath(self.path):
                raise ValueError(f"{name} must be another folder than path")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of the files to take; upper and lower case are the same."""
        return self.pattern or _PATTERNS[self.format]

    @property
    def feed(self) -> str:
        """The folder's name in the ledger, in logs and in status."""
        return self.name or os.fsencode(self.path.absolute()).decode("utf-8", "replace")
