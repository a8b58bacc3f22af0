"""From one configuration to the next while the daemon runs: what changes now, and what with the next start. Floor 5."""

from dataclasses import dataclass

from broker.config.model import DOORS, Config
from broker.config.problem import key_of

NEEDS_RESTART = ("data_dir", "native", "http", "mqtt", "limits", "engine")


@dataclass(frozen=True, slots=True)
class Change:
    """`changed`: the sections that are not what they were and hold from now on; `waits`: the settings that hold from
    the next start on; `config`: what holds now."""

    changed: list[str]
    waits: list[str]
    config: Config


def change(old: Config, new: Config) -> Change:
    """What becomes of `old` when `new` is taken up."""
    changed = [name for name in Config.model_fields if getattr(old, name) != getattr(new, name)]
    kept = {name: getattr(old, name) for name in NEEDS_RESTART}
    kept |= {door: kept[door].model_copy(update={"tls": getattr(new, door).tls}) for door in DOORS}
    waits = [name for name in NEEDS_RESTART if kept[name] != getattr(new, name)]
    if (old.auth is None) != (new.auth is None):
        kept["auth"] = old.auth
        changed.remove("auth")
        waits.append("auth")
    config = new.model_copy(update=kept).read_from(new.source, new.secrets)
    return Change(changed, waits + _durability(old, new), config)


def _durability(old: Config, new: Config) -> list[str]:
    """Retention changes at once, durability with the next start: a topic is in the log or it is not."""
    before, after = ({f: p.get("durability", "fsync") for f, p in c.topics.items()} for c in (old, new))
    return [
        key_of("topics", f, "durability")
        for f in sorted(before | after)
        if before.get(f, "fsync") != after.get(f, "fsync")
    ]
