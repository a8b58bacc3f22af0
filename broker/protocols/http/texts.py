"""Messages as JSON text, encoded once for all who follow them; the latest are remembered. Floor 4."""

from collections import deque

from broker.core.message import Row
from broker.protocols.http.representation import message_json

SHARED_BYTES = 4 << 20
"""Bytes of texts kept for other readers."""


class Texts:
    """See the module."""

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}
        self._order: deque[int] = deque()
        self._size = 0

    def of(self, row: Row, epoch: str) -> bytes:
        """The text of one message, without a line break."""
        text = self._known.get(row[0])
        if text is None:
            text = message_json(row, epoch).encode()
            self._remember(row[0], text)
        return text

    def _remember(self, offset: int, text: bytes) -> None:
        self._known[offset] = text
        self._order.append(offset)
        self._size += len(text)
        while self._size > SHARED_BYTES:
            self._size -= len(self._known.pop(self._order.popleft()))
