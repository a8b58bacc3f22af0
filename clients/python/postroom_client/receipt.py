"""What a publisher is told of one message: it is on disk, and where."""

from postroom_client.identity import made_id


class Receipt:
    """The message is committed and fsynced.

    `offset` and `position` are None for a message that waits in the schedule, for one whose commit was learnt of only
    from the greeting after a lost connection, and for one to a topic of durability `memory`: that was shown to who
    listened, and is in no log. `duplicate`: an earlier message had this id; `offset` is its place.
    """

    __slots__ = ("_epoch", "_given", "at", "duplicate", "offset")

    def __init__(
        self, offset: int | None, at: int | None, epoch: str, given: str | None, duplicate: bool = False
    ) -> None:
        self.offset = offset
        self.at = at
        self.duplicate = duplicate
        self._epoch = epoch
        self._given = given

    @property
    def id(self) -> str | None:
        """The id given by the publisher, else the one computed from the place; None when that is not known."""
        if self._given is not None or self.offset is None or self.at is None:
            return self._given
        return made_id(self._epoch, self.offset, self.at)

    @property
    def position(self) -> str | None:
        """Where a reader would stand after this message."""
        return None if self.offset is None else f"{self._epoch}.{self.offset}"

    def __repr__(self) -> str:
        return f"Receipt(offset={self.offset}, id={self.id!r}, duplicate={self.duplicate})"
