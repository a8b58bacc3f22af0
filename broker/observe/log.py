"""Logs: one line per event, logfmt for people at a terminal, JSON lines for everything else.

It decides how a record looks and keeps what must not be read out of it: payloads (bytes are told by their length) and
secrets (by the name of a field, by well-known forms, and by the values the configuration was given). It leaves to the
callers what is worth a line; nothing is logged per message. Floor 1.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pydantic import BaseModel, ConfigDict

HIDDEN = "***"
MAX_TEXT = 2_000
"""Characters of one text in a line; what is longer is cut, because a long text is most likely somebody's data."""

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:secrets?|token|password|passwd|authorization|cookie|api_?key)$", re.IGNORECASE
)
_SECRET_FORMS = (
    (re.compile(r"(?i)\b(authorization\s*[:=]\s*)(?:(?:bearer|basic|digest)\s+)?[^\s,;\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=_.~-]{8,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(r"(?i)\b((?:\w+_)?(?:secret|token|password|passwd|api_?key)\s*[=:]\s*)[\"']?[^\s,;&\"']+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"), HIDDEN),
    (re.compile(r"\b(pr_[A-Za-z0-9]{1,40}_)[A-Za-z0-9]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(://[^\s:/@]*:)[^\s/@]+@"), rf"\1{HIDDEN}@"),
)
_BARE = re.compile(r"[\w.:/@+#$*,;()\[\]-]+")


class LogOptions(BaseModel):
    """`[log]` of the configuration. `auto` is logfmt on a terminal and JSON lines otherwise. `access`: see `access`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "logfmt", "json"] = "auto"
    access: Literal["off", "errors", "all"] = "errors"


def is_secret_name(name: str) -> bool:
    """Does a setting or field of this name hold a secret (`secret`, `webhook_secret`, `token`, `password` …)?"""
    return bool(_SECRET_NAME.search(name))


class RedactingFilter(logging.Filter):
    """Rewrites every record before it is formatted: secrets become `***`, bytes their length. Never drops one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True)

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by logging for each record."""
        if isinstance(record.args, Mapping):
            record.args = {name: _bounded(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(_bounded(value) for value in record.args)
        record.msg, record.args = self.text(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self.text(record.exc_text, limit=20 * MAX_TEXT)
        for name, value in fields_of(record).items():
            setattr(record, name, HIDDEN if is_secret_name(name) else self.value(value))
        return True

    def text(self, text: str, limit: int = MAX_TEXT) -> str:
        """The text without secrets, cut at `limit` characters."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for form, mend in _SECRET_FORMS:
            text = form.sub(mend, text)
        return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"

    def value(self, value: Any) -> Any:
        """The same for a structured value, to any depth."""
        if isinstance(value, (bool, int, float)) or value is None:
            return value
        if isinstance(value, Mapping):
            return {str(k): HIDDEN if is_secret_name(str(k)) else self.value(v) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(v) for v in value]
        return self.text(str(_bounded(value)))


def _bounded(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    return value


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _event(record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
    event |= {name if name not in event else f"{name}_": value for name, value in fields_of(record).items()}
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    return event | ({"exception": record.exc_text} if record.exc_text else {})


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        return json.dumps(_event(record), default=str, ensure_ascii=False, separators=(",", ":"))


class LogfmtFormatter(logging.Formatter):
    """`key=value` pairs; a traceback follows on its own lines, because people read it."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        event = _event(record)
        trace = event.pop("exception", "")
        line = " ".join(f"{name}={_quoted(value)}" for name, value in event.items())
        return f"{line}\n{trace}" if trace else line


def _quoted(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, (dict, list, bool)) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from those of an embedding program or a test."""


def configure_logging(options: LogOptions, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Send all logs of the process to `stream` (stderr) in the form and from the level the options ask for.

    May be called again on reload; the last call holds.
    """
    stream = stream or sys.stderr
    as_logfmt = options.format == "logfmt" or (options.format == "auto" and stream.isatty())
    handler = _Handler(stream)
    handler.setFormatter(LogfmtFormatter() if as_logfmt else JsonFormatter())
    handler.addFilter(RedactingFilter(secrets))
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if not isinstance(h, _Handler)] + [handler]
    root.setLevel(options.level.upper())
    logging.captureWarnings(capture=True)
    for name in ("asyncio", "aiosqlite", "aiohttp.access", "watchfiles"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
