"""How much a consumer lets the broker hand it ahead of its work (PROTOCOL.md, *Credit*). Pure.

A fast worker needs many messages under way, a slow one must not hoard what others could work on: unless the user
fixed the number, the window doubles while half of it is worked off in a moment, and halves while that takes long.
"""

BYTES = 16 << 20
QUICK, SLOW = 0.1, 2.0
"""Seconds in which half a window is worked off: below the first it grows, above the second it shrinks."""


class Credit:
    """`most` bounds the window's growth from `messages`, below which it never falls; equal: it is fixed."""

    __slots__ = ("_bytes", "_least", "_most", "_paced_at", "_since", "_size", "_spent", "window")

    def __init__(self, messages: int, most: int | None = None, size: int = BYTES) -> None:
        self.window = messages
        self._least = messages
        self._most = max(messages, most or 0)
        self._size = size
        self._spent = 0
        self._bytes = 0
        self._since = 0  # messages worked off since the window was last looked at
        self._paced_at = 0.0

    def opening(self, now: float) -> tuple[int, int]:
        """(messages, bytes) to grant on a fresh attachment."""
        self._spent = self._bytes = self._since = 0
        self._paced_at = now
        return self.window, self._size

    def spend(self, size: int) -> None:
        """One message of `size` body bytes is done with."""
        self._spent += 1
        self._since += 1
        self._bytes += size

    def due(self, now: float, *, idle: bool) -> tuple[int, int] | None:
        """(messages, bytes) to grant now, or None: too few to be worth a frame. `idle`: nothing is left to work on."""
        if not self._spent or not (idle or self._spent * 2 >= self.window or self._bytes * 2 >= self._size):
            return None
        if self._least < self._most and self._since * 2 >= self.window:
            self._adapt(now - self._paced_at)
            self._paced_at = now
            self._since = 0
        if self._spent <= 0:  # the window shrank by as much
            return None
        granted, size = self._spent, self._bytes
        self._spent = self._bytes = 0
        return granted, size

    def _adapt(self, took: float) -> None:
        wanted = self.window
        if took < QUICK:
            wanted = min(self._most, self.window * 2)
        elif took > SLOW:
            wanted = max(self._least, self.window // 2)
        self._spent += wanted - self.window
        self.window = wanted
