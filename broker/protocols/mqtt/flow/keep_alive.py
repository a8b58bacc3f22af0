"""How long a client may be silent (§3.1.2.10), in seconds."""

GRACE = 1.5
"""A client is lost when nothing came for this many times its keep alive. [MQTT-3.1.2-11, 3.1.2-22]"""


def granted(asked: int, most: int) -> int:
    """The keep alive that holds, where ours is bounded: to be told as Server Keep Alive when it is not what the client
    asked for [MQTT-3.1.2-21, 3.2.2-22]. `most` 0 is no bound, and 0 asks for none."""
    if not most:
        return asked
    return min(asked, most) if asked else most


def deadline(heard: float, keep_alive: int) -> float | None:
    """When a client that was last heard at this time is lost; None when it may be silent for ever."""
    return heard + keep_alive * GRACE if keep_alive else None
