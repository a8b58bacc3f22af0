"""What was allowed once and lasts: readers. When grants change, what is no longer covered is ended at once. Floor 2."""

import logging
from collections.abc import Callable

from broker.auth.grant import Resource, Verb
from broker.auth.principal import Principal, authorize
from broker.core.errors import BrokerError

log = logging.getLogger(__name__)


class Hold:
    """One lasting use of a right, also for `with`. `end` is called once, with the reason, when the right is gone."""

    __slots__ = ("_holds", "end", "needs", "principal")

    def __init__(
        self,
        holds: "Holds",
        principal: Principal,
        needs: tuple[tuple[Verb, Resource], ...],
        end: Callable[[BrokerError], None],
    ) -> None:
        self._holds = holds
        self.principal = principal
        self.needs = needs
        self.end = end

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """It ended by itself."""
        self._holds.forget(self)


class Holds:
    """All of them, by the name of the principal, whoever asked in its name."""

    def __init__(self) -> None:
        self._held: dict[str, dict[Hold, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def add(
        self,
        principal: Principal,
        needs: tuple[tuple[Verb, Resource], ...],
        end: Callable[[BrokerError], None],
    ) -> Hold:
        """Remember a use that was allowed; `release` it when it ends by itself."""
        hold = Hold(self, principal, needs, end)
        self._held.setdefault(principal.name, {})[hold] = None
        return hold

    def forget(self, hold: Hold) -> None:
        """It ended."""
        held = self._held.get(hold.principal.name)
        if held is not None:
            held.pop(hold, None)
            if not held:
                del self._held[hold.principal.name]

    def recheck(self, principal: Principal, refusal: Callable[[Principal, Verb, Resource], BrokerError]) -> None:
        """The grants of this principal have changed. One whose end fails saves none of the others."""
        for hold in list(self._held.get(principal.name, ())):
            for verb, resource in hold.needs:
                if not authorize(hold.principal, verb, resource):
                    self.forget(hold)
                    try:
                        hold.end(refusal(hold.principal, verb, resource))
                    except Exception:
                        log.exception("what is no longer allowed could not be told so", extra={"needs": str(resource)})
                    break
