"""Values that do not stand in the file: `${env:NAME}`, `${file:PATH}`, `${credential:NAME}`; and which are secret.

What comes from a file or a credential is secret; what comes from the environment or stands in the file is, when its
key or variable is named so. `$${` writes a plain `${`. Floor 5.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from broker.config.problem import Problem, key_of
from broker.observe.log import is_secret_name

MAX_FILE = 64 << 10
_REFERENCE = re.compile(r"(\$?)\$\{([^}:]*)(?::([^}]*))?\}?")
_CREDENTIAL = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,255}")


class UnresolvedError(Exception):
    """A reference leads nowhere; the text is the mend."""


class Expander:
    """Expands a tree of values; collects what was wrong, which texts are secret, and which files they came from."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[Problem] = []
        self.secrets: set[str] = set()
        self.files: list[Path] = []

    def expand(self, value: Any, *path: str | int) -> Any:
        """The same tree with its references resolved; one that leads nowhere stays as it is and is a problem."""
        if isinstance(value, dict):
            return {name: self.expand(inner, *path, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.expand(inner, *path, i) for i, inner in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return _REFERENCE.sub(self._resolve, value)
        except UnresolvedError as error:
            self.problems.append(Problem(key_of(*path), str(error)))
            return value

    def _resolve(self, match: re.Match[str]) -> str:
        escaped, kind, name = match.groups()
        if escaped:
            return match[0][1:]
        if kind not in ("env", "file", "credential") or not name or not match[0].endswith("}"):
            raise UnresolvedError(
                f"{match[0]!r}: write ${{env:NAME}}, ${{file:PATH}} or ${{credential:NAME}}; $${{ is a plain ${{"
            )
        if kind == "env":
            return self._from_environment(name)
        text = self._from_file(Path(name)) if kind == "file" else self._from_credential(name)
        self.secrets.add(text)
        return text

    def _from_environment(self, name: str) -> str:
        if name not in self._environ:
            raise UnresolvedError(f"the environment has no {name}; set it, or write the value here")
        if is_secret_name(name):
            self.secrets.add(self._environ[name])
        return self._environ[name]

    def _from_credential(self, name: str) -> str:
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder or not _CREDENTIAL.fullmatch(name):
            raise UnresolvedError(f"no credential {name!r}; write LoadCredential={name}:/path in the systemd unit")
        return _text(Path(folder) / name)

    def _from_file(self, path: Path) -> str:
        self.files.append(path)
        return _text(path)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise UnresolvedError(f"{path} is over {MAX_FILE} bytes; that is no secret")
        return content.decode().rstrip("\r\n")
    except OSError as error:
        raise UnresolvedError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnresolvedError(f"{path} is not UTF-8 text") from None


def texts_of_secrets(values: Any, secret: bool = False) -> Iterator[str]:
    """The texts that stand at keys named like secrets."""
    if isinstance(values, Mapping):
        for name, inner in values.items():
            yield from texts_of_secrets(inner, secret or is_secret_name(name))
    elif isinstance(values, list):
        for inner in values:
            yield from texts_of_secrets(inner, secret)
    elif secret and isinstance(values, str):
        yield values


def is_open(path: Path) -> bool:
    """May everybody on this machine read this file?"""
    try:
        return bool(path.stat().st_mode & 0o004)
    except OSError:
        return False
