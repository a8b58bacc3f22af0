"""Messages that promise nothing, as MQTT's QoS 0: which of them are stored all the same, and who sees the others.

Floor 2.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.core.message import Draft
from broker.core.topic import matches
from broker.engine.sqlite.routes import MAX_KEPT
from broker.engine.sqlite.streams import StreamHandle

if TYPE_CHECKING:
    from broker.engine.sqlite.engine import SqliteEngine


class Relay:
    """See the module."""

    def __init__(self, engine: "SqliteEngine") -> None:
        self._engine = engine
        self._wanted: dict[str, bool] = {}  # topic -> is it stored whoever listens now?
        self._policies = engine.policies

    def forget(self) -> None:
        """A named stream was made, changed or deleted."""
        self._wanted.clear()

    def keeps(self, topic: str) -> bool:
        """Must such a message be stored: for a queue, a stream, a reader of the log, or by a policy?"""
        if self._policies is not self._engine.policies:  # they were changed while running
            self._policies = self._engine.policies
            self._wanted.clear()
        wanted = self._wanted.get(topic)
        if wanted is None:
            if len(self._wanted) >= MAX_KEPT:
                self._wanted.clear()
            wanted = self._wanted[topic] = self._policies.wants(topic) or self._is_streamed(topic)
        return wanted or self._engine.routes.keeps(topic)

    def _is_streamed(self, topic: str) -> bool:
        streams = [h for h in self._engine.catalog.handles.values() if isinstance(h, StreamHandle)]
        return any(matches(text, topic) for handle in streams for text in handle.spec.topics)

    def pass_by(self, drafts: Sequence[Draft]) -> None:
        """Show these to who listens now; they are in no log."""
        engine = self._engine
        at = engine.wall_ms()
        rows = [(0, topic, at, meta, body) for topic, meta, body in drafts]
        engine.routes.pass_by(rows)
        if engine.taps.used:
            engine.taps.dispatch(rows)
