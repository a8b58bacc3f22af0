"""The trace that a message belongs to, as W3C Trace Context writes it (https://www.w3.org/TR/trace-context/): read
strictly, because it comes from strangers and goes on to others, and otherwise left alone. Pure. Floor 1.

A trace travels in a message's headers under the names of the standard, so that it passes through the log, dead letters
and every door without anybody looking at it. It is parsed where it enters by HTTP and where it leaves by a webhook.
"""

import re
from collections.abc import Sequence

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
MAX_STATE = 512
"""Characters of a tracestate; the standard's least that everybody passes on (§3.3.1.5)."""
MAX_MEMBERS = 32
_MAX_LATER = 128
"""Characters of a traceparent of a later version, which may have more fields."""
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[\x21-\x7e]*)?")
_MEMBER = re.compile(
    r"([a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


def trace_context(parents: Sequence[str], states: Sequence[str] = ()) -> dict[str, str]:
    """What goes on of the `traceparent` and `tracestate` fields that came: nothing when there is not exactly one valid
    parent, no state when that is not well formed (§3.2.2, §3.3.1)."""
    if len(parents) != 1 or trace_id(parents[0]) is None:
        return {}
    state = _state(states)
    return {TRACEPARENT: parents[0], TRACESTATE: state} if state else {TRACEPARENT: parents[0]}


def trace_id(parent: str) -> str | None:
    """The id of the trace, 32 hex digits; None when this is no traceparent."""
    if not 55 <= len(parent) <= _MAX_LATER:
        return None
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace, span, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None) or not trace.strip("0") or not span.strip("0"):
        return None
    return trace


def made_traceparent(digest: str) -> str:
    """The beginning of a trace, out of 48 hex digits of a digest, with no decision to record it (flags 00)."""
    return f"00-{digest[:32]}-{digest[32:48]}-00"


def _state(fields: Sequence[str]) -> str:
    """Several fields are one list; empty when it is none."""
    text = ",".join(fields)
    if not text or len(text) > MAX_STATE:
        return ""
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    keys = {member.partition("=")[0] for member in members}
    good = len(keys) == len(members) <= MAX_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return ",".join(members) if good else ""
