"""Settling a list of receipts: each item stands for itself, all that end a lease share one commit. Floor 4."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.core.duration import parse_duration
from broker.core.errors import BrokerError, Code
from broker.core.subscription import Outcome
from broker.engine.base import Settle
from broker.protocols.http.problem import document
from broker.protocols.http.receipt import Receipt, Receipts
from broker.protocols.http.receiver import Receiver

EXTEND = "extend"
OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_KEYS = {"receipt", "outcome", "delay", "error", "duration"}
_LONGEST_LEASE = 86_400_000


@dataclass(slots=True)
class Settlement:
    """What became of the items of one request; `settles[i]` belongs to item `items[i]`."""

    queue: str
    results: list[dict[str, Any]] = field(default_factory=list)
    settles: list[Settle] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    _offsets: set[int] = field(default_factory=set)

    def add(self, item: Any, receipts: Receipts, receiver: Receiver | None) -> None:
        """Check one item; extend at once, keep what ends a lease for the commit, or note the refusal."""
        result: dict[str, Any] = {"receipt": item.get("receipt") if isinstance(item, Mapping) else None, "ok": True}
        self.results.append(result)
        try:
            outcome, receipt = _check(item, receipts)
            if outcome is None:
                _extend(receiver, receipt, item)
            else:
                self._settle(outcome, receipt, item)
        except BrokerError as error:
            result |= _refusal(error)

    def _settle(self, outcome: Outcome, receipt: Receipt, item: Mapping[str, Any]) -> None:
        if receipt.offset in self._offsets:
            raise BrokerError(Code.BAD_REQUEST, "this message is settled by an earlier item of the same request")
        delay, error = settle_options(outcome, item)
        self._offsets.add(receipt.offset)
        self.items.append(len(self.results) - 1)
        self.settles.append(Settle(self.queue, outcome, receipt.offset, receipt.lease, delay, error))

    def finish(self, lost: set[int], receiver: Receiver | None) -> None:
        """The commit is done; `lost` are the offsets that came too late."""
        for index, settle in zip(self.items, self.settles, strict=True):
            assert settle.lease is not None
            if receiver is not None:
                receiver.forget(Receipt(settle.offset, settle.lease))
            if settle.offset in lost:
                self.results[index] |= _refusal(BrokerError(Code.LEASE_LOST))


def _check(item: Any, receipts: Receipts) -> tuple[Outcome | None, Receipt]:
    """The outcome (None: extend) and what it is for. Raises BAD_REQUEST, BAD_OPTION."""
    if not isinstance(item, Mapping):
        raise BrokerError(Code.BAD_REQUEST, 'an item is {"receipt": …, "outcome": …}')
    if unknown := set(item) - _KEYS:
        raise BrokerError(Code.BAD_OPTION, f"no member {min(unknown)!r}; there are {', '.join(sorted(_KEYS))}")
    name = item.get("outcome")
    if type(name) is not str or (name != EXTEND and name not in OUTCOMES):
        raise BrokerError(Code.BAD_OPTION, f"outcome must be {', '.join(OUTCOMES)} or {EXTEND}")
    if "duration" in item and name != EXTEND:
        raise BrokerError(Code.BAD_OPTION, f"duration goes with {EXTEND}")
    return OUTCOMES.get(name), receipts.read(item.get("receipt"))


def _extend(receiver: Receiver | None, receipt: Receipt, item: Mapping[str, Any]) -> None:
    if receiver is None:
        raise BrokerError(Code.LEASE_LOST)
    duration = receiver.lease if item.get("duration") is None else lease_of(item)
    if not receiver.extend(receipt, duration):
        raise BrokerError(Code.LEASE_LOST)


def settle_options(outcome: Outcome, item: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Delay (ms) and error of a settle. Raises BAD_OPTION."""
    delay, error = item.get("delay"), item.get("error")
    if delay is not None and outcome is not Outcome.RETRY:
        raise BrokerError(Code.BAD_OPTION, "delay goes with retry")
    if error is not None and type(error) is not str:
        raise BrokerError(Code.BAD_OPTION, "error must be text")
    return None if delay is None else parse_duration(delay, "delay"), error


def lease_of(item: Mapping[str, Any]) -> int:
    """For how long (ms) a lease is extended. Raises BAD_OPTION."""
    duration = parse_duration(item.get("duration"), "duration")
    if not 100 <= duration <= _LONGEST_LEASE:
        raise BrokerError(Code.BAD_OPTION, "duration must be from 100ms to 24h")
    return duration


def _refusal(error: BrokerError) -> dict[str, Any]:
    return {"ok": False, "problem": document(error.code, error.detail)}
