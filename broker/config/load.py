"""From a file and the environment to a checked configuration, or to all its problems at once.

It decides the order of precedence (command line, environment, file, what systemd offers, defaults) and checks what no
module can see alone. It leaves each setting's own bounds to the module that owns it. Floor 5.
"""

import os
import tomllib
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from itertools import combinations
from operator import getitem
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from broker.config.model import DOORS, Config, declared_spec
from broker.config.problem import ConfigError, Problem, key_of, problems_of
from broker.config.secret import Expander, is_open, texts_of_secrets
from broker.config.tls import read_certificates, tls_problems, tls_warnings
from broker.connectors.webhook.options import parse_target
from broker.core.errors import BrokerError
from broker.core.retention import parse_policy
from broker.core.subscription import Kind
from broker.core.topic import intersection
from broker.limits import Limits
from broker.net.address import is_loopback
from broker.net.tls import Tls

PREFIX = "POSTROOM_"
_SINGLE = ("data_dir", "grace")
_FILE_ONLY = ("queues", "streams", "topics", "drop", "mqtt_bridge")
_EXPOSED = """{host!r}: others could reach it, and there is no [auth] to tell who they are; write
    [auth]
  and the first start makes an admin token, or stay on this machine:
    [{door}]
    host = "127.0.0.1\""""
_FRAME_ROOM = 128 << 10


def load_config(
    path: Path | None = None, environ: Mapping[str, str] | None = None, data_dir: Path | None = None
) -> Config:
    """Read, override, expand and check. `data_dir` (the command line's) wins over everything. Raises ConfigError."""
    config, problems = _examine(path, os.environ if environ is None else environ, data_dir)
    if config is None or problems:
        raise ConfigError(path, problems)
    return config


def _examine(
    path: Path | None, environ: Mapping[str, str], data_dir: Path | None = None
) -> tuple[Config | None, list[Problem]]:
    """The configuration, as far as there is one, and all its problems. Raises ConfigError when it cannot be read."""
    values = _read(path)
    problems = _override(values, environ)
    expander = Expander(environ)
    values = expander.expand(values)
    problems += expander.problems
    if data_dir is not None:
        values["data_dir"] = str(data_dir)
    elif state := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        values.setdefault("data_dir", state)
    secrets = frozenset(expander.secrets | set(texts_of_secrets(values)))
    config, found = _validated(values, secrets)
    problems += found
    if config is None:
        return None, problems
    problems += [
        *_check_doors(config),
        *tls_problems(config),
        *_check_limits(config.limits),
        *_check_declared(config),
        *_check_topics(config),
        *_check_drops(config),
        *_check_bridges(config),
    ]
    return config.read_from(path, secrets), problems


def _validated(values: dict[str, Any], secrets: Collection[str]) -> tuple[Config | None, list[Problem]]:
    """With unknown keys the rest is a configuration all the same, so that its own problems are found in one go."""
    try:
        return Config.model_validate(values), []
    except ValidationError as error:
        found, problems = error.errors(include_url=False), problems_of(Config, error, secrets)
    if any(item["type"] != "extra_forbidden" for item in found):
        return None, problems
    for item in found:
        *above, last = item["loc"]
        del reduce(getitem, above, cast("Any", values))[last]
    return Config.model_validate(values), problems


def check_config(
    path: Path | None = None, environ: Mapping[str, str] | None = None, say: Callable[[str], None] = print
) -> bool:
    """Tell a person what is wrong with a configuration, and warn of secrets that others can read; True when it can be
    used."""
    environ = os.environ if environ is None else environ
    try:
        config, problems = _examine(path, environ)
    except ConfigError as error:
        say(str(error))
        return False
    served: list[Tls] = []
    if config is not None:
        served, unreadable = read_certificates(config)
        problems = list(dict.fromkeys(problems + unreadable))
    if config is None or problems:
        say(str(ConfigError(path, problems)))
        return False
    for warning in (
        *_warnings(path, environ),
        *tls_warnings(config, served),
        *_drop_warnings(config),
        *_bridge_warnings(config),
    ):
        say(f"warning: {warning}")
    links = f"{len(config.drop)} drop folders, {len(config.mqtt_bridge)} bridges"
    declared = f"{len(config.queues)} queues, {len(config.streams)} streams, {links}"
    say(f"{path or 'the default configuration'} is good: data in {config.data_dir}, {declared}")
    return True


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [Problem("TOML", f"{error}; see https://toml.io")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(path, [Problem("TOML", f"not UTF-8 at byte {error.start}; save it as UTF-8")]) from None
    except OSError as error:
        mend = "look at its permissions" if path.exists() else "copy config/postroom.toml there or leave it out"
        raise ConfigError(path, [Problem("file", f"{error.strerror}; {mend}")]) from None


def _override(values: dict[str, Any], environ: Mapping[str, str]) -> list[Problem]:
    """Put what the environment says into `values`; returns the names that fit nowhere."""
    problems = []
    for name in sorted(n for n in environ if n.startswith(PREFIX)):
        keys = name.removeprefix(PREFIX).lower().split("__")
        if len(keys) == 1 and keys[0] not in _SINGLE:
            continue  # POSTROOM_URL and the like are for others
        if keys[0] in _FILE_ONLY:
            problems.append(Problem(name, f"{keys[0]} can be declared in the file only"))
        elif keys[0] not in Config.model_fields:
            problems.append(Problem(name, f"there is no section {keys[0]!r}; write {PREFIX}<SECTION>__<KEY>"))
        else:
            _put(values, keys, _environment_value(environ[name]))
    return problems


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    values[keys[-1]] = value


def _environment_value(text: str) -> Any:
    """A list or table is written as in TOML; all else is text, and the setting's type reads it."""
    if text.startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def _check_doors(config: Config) -> list[Problem]:
    problems = [
        Problem(f"{door}.host", _EXPOSED.format(host=config.host_of(door), door=door))
        for door in DOORS
        if config.auth is None and not is_loopback(config.host_of(door))
    ]
    taken: dict[int, str] = {}
    for door in DOORS:
        options = getattr(config, door)
        if not getattr(options, "tcp", True) or not options.port:
            continue
        if options.port in taken:
            text = f"{options.port} is the {taken[options.port]} port as well; set another one"
            problems.append(Problem(f"{door}.port", text))
        taken[options.port] = door
    return problems


def _check_limits(limits: Limits) -> list[Problem]:
    least = limits.max_body + _FRAME_ROOM
    if limits.max_frame < least:
        return [Problem("limits.max_frame", f"a message of limits.max_body does not fit; set at least {least}")]
    return []


def _check_declared(config: Config) -> list[Problem]:
    problems = []
    for kind, name, given in config.declared():
        problem = _check_subscription(config, kind, name, given)
        if problem:
            problems.append(Problem(key_of(f"{kind.value}s", name), problem))
    both = sorted(config.queues.keys() & config.streams.keys())
    return problems + [Problem(key_of("streams", n), "there is a queue of that name; rename one") for n in both]


def _check_subscription(config: Config, kind: Kind, name: str, given: dict[str, Any]) -> str | None:
    if "kind" in given:
        return f"take out kind: [{kind.value}s.…] says it"
    try:
        spec = declared_spec(kind, name, given)
        if spec.sink is not None:
            parse_target(spec.sink, config.webhooks)
    except BrokerError as error:
        return error.detail or error.text
    return None


def _check_topics(config: Config) -> list[Problem]:
    problems = []
    for filter_, given in config.topics.items():
        try:
            parse_policy(filter_, given)
        except BrokerError as error:
            problems.append(Problem(key_of("topics", filter_), error.detail or error.text))
    return problems


def _check_drops(config: Config) -> list[Problem]:
    problems: list[Problem] = []
    paths: dict[Path, int] = {}
    names: dict[str, int] = {}
    for i, drop in enumerate(config.drop):
        first = paths.setdefault(drop.path.resolve(), i)  # two on one folder would publish each file twice
        if first != i:
            problems.append(Problem(f"drop[{i}].path", f"{drop.path} is drop[{first}]'s; give each its own folder"))
        elif names.setdefault(drop.feed, i) != i:
            problems.append(Problem(f"drop[{i}].name", f"{drop.feed!r} is drop[{names[drop.feed]}]'s; rename one"))
    return problems


def _check_bridges(config: Config) -> list[Problem]:
    problems: list[Problem] = []
    names: dict[str, int] = {}
    clients: dict[tuple[str, str, int], int] = {}
    for i, bridge in enumerate(config.mqtt_bridge):
        first = names.setdefault(bridge.name, i)
        if first != i:
            problems.append(Problem(f"mqtt_bridge[{i}].name", f"{bridge.name!r} is mqtt_bridge[{first}]'s; rename one"))
        elif bridge.client_id is not None:  # each would end the other's connection, again and again
            places = [(bridge.client_id, address.host, address.port) for address in bridge.addresses]
            others = {clients.setdefault(place, i) for place in places} - {i}
            problems += [
                Problem(
                    f"mqtt_bridge[{i}].client_id",
                    f"{bridge.client_id!r} is mqtt_bridge[{other}]'s at the same broker; give each its own",
                )
                for other in others
            ]
    return problems


def _bridge_warnings(config: Config) -> list[str]:
    """Passwords that travel for everybody to read, and subscriptions that some brokers answer twice."""
    said: list[str] = []
    for n, bridge in enumerate(config.mqtt_bridge):
        said += [
            f"mqtt_bridge[{n}].address: the password travels in the clear to {address.text}; write mqtts://"
            for address in bridge.addresses
            if bridge.password is not None and not address.tls and not is_loopback(address.host)
        ]
        incoming = [(i, entry.remote) for i, entry in enumerate(bridge.topics) if entry.comes]
        said += [
            f"mqtt_bridge[{n}].topics[{i}] and topics[{j}] overlap: a broker that sends a message once for each"
            " subscription, as Mosquitto does, doubles what both match"
            for (i, one), (j, other) in combinations(incoming, 2)
            if intersection(one, other) is not None
        ]
    return said


def _drop_warnings(config: Config) -> list[str]:
    """Folders that the daemon could not watch if it started now, as this user."""
    said = []
    for i, drop in enumerate(config.drop):
        if not drop.path.is_dir():
            said.append(f"drop[{i}].path: {drop.path} is no folder; create it, or mend path")
        elif not os.access(drop.path, os.R_OK | os.W_OK | os.X_OK):
            mend = "files are moved within it: give the daemon's user the right to"
            said.append(f"drop[{i}].path: this user may not read and write {drop.path}; {mend}")
    return said


def _warnings(path: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Files with secrets that everybody on this machine may read."""
    if path is None:
        return []
    values = _read(path)
    expander = Expander(environ)
    expander.expand(values)
    said = [f"{f} holds a secret and everybody may read it; chmod o-r {f}" for f in expander.files if is_open(f)]
    if is_open(path) and any("${" not in text for text in texts_of_secrets(values)):
        said.append(f"{path} holds secrets and everybody may read it; chmod o-r {path}, or move them: ${{file:PATH}}")
    return said
