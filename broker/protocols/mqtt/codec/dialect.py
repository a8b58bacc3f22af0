"""What bytes mean depends on: the version, who sent them, and how much of it we let anybody say."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a peer sends, in bytes of whole packets and in counts; each is checked before memory is taken.

    `max_connect` holds for everything before `Decoder.admit`, `max_early` for what a client sends after its CONNECT
    without waiting for the answer. `max_filters` bounds subscription identifiers too.
    """

    max_packet: int = 2 * 1024 * 1024
    max_connect: int = 64 * 1024
    max_early: int = 256 * 1024
    max_user_properties: int = 64
    max_filters: int = 1024


@dataclass(frozen=True, slots=True)
class Dialect:
    """`version` is 3 (3.1), 4 (3.1.1) or 5; `from_client` is true for what servers read."""

    version: int
    from_client: bool
    limits: Limits = field(default_factory=Limits)
