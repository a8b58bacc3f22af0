"""How the process of the daemon is tuned: thread switches, the allocator, the garbage collector. Floor 5."""

import ctypes
import gc
import sys

SWITCH_INTERVAL = 0.0005
"""Seconds after which one Python thread yields to another: the writer must not wait 5 ms for the loop."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
KEPT = 64 << 20
"""Bytes of freed memory that are kept for what comes next, at most."""
MAPPED = 16 << 20
"""Blocks of so many bytes and more come from the system and go back to it."""


def tune() -> None:
    """At the beginning of the process.

    Messages pass in blocks of a megabyte or so. glibc gives such blocks back to the system at once, and has every page
    of the next one zeroed anew by a fault: that took half the time of reading the log. Where there is no mallopt
    (musl, macOS), nothing is changed.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for name, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, MAPPED), (_TRIM_THRESHOLD, KEPT)):
        mallopt(name, value)


def settle_memory() -> None:
    """Once it serves: what is here now stays, so the collector need not look at it again, and rarely at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
