"""How many connections there may be over all doors, and how many the operating system lets us have. Floor 3."""

import resource

RESERVED_FILES = 256
"""Descriptors that are not connections: database, its readers, drop folders, webhook connections, logs."""


class Admission:
    """Counts connections against `limit`. A door asks `admit` when one is made and calls `leave` when it is lost."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.refused = 0

    def admit(self) -> bool:
        """Take a place; False when there is none, then `leave` is not called."""
        if self.count >= self.limit:
            self.refused += 1
            return False
        self.count += 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        self.count -= 1


def raise_file_limit(connections: int) -> int:
    """Ask the system for descriptors for that many connections; returns for how many there are enough."""
    wanted = connections + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError):  # a sandbox may forbid it; then what there is has to do
            pass
    return connections if soft == resource.RLIM_INFINITY else max(0, min(connections, soft - RESERVED_FILES))
