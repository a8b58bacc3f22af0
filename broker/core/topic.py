"""Topic names and filters: MQTT's grammar (MQTT 5 §4.7), the same at every door, and the trie that finds who listens.

A name is levels joined by `/`. In a filter `+` stands for one level and a last `#` for any number of levels, the
parent's included. Names that begin with `$` belong to the broker and match no filter that begins with a wildcard.
Floor 0.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from broker.core.errors import BrokerError, Code

MAX_TOPIC_BYTES = 1024
MAX_LEVELS = 32
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")

T = TypeVar("T")


def check_topic(name: object) -> str:
    """Return the name if messages may carry it. Raises BrokerError(BAD_TOPIC) that says what is wrong."""
    if type(name) is not str or not name:
        raise BrokerError(Code.BAD_TOPIC, "it must be text and not empty")
    _check_size(name, Code.BAD_TOPIC)
    if "+" in name or "#" in name:
        raise BrokerError(Code.BAD_TOPIC, f"{name!r} holds a wildcard; wildcards belong in filters")
    return name


def check_filter(text: object) -> str:
    """Return the filter if it is one. Raises BrokerError(BAD_FILTER) that says what is wrong."""
    if type(text) is not str or not text:
        raise BrokerError(Code.BAD_FILTER, "it must be text and not empty")
    _check_size(text, Code.BAD_FILTER)
    if wildcard := misplaced_wildcard(text):
        place = "the whole last level" if wildcard == "#" else "a whole level"
        raise BrokerError(Code.BAD_FILTER, f"{text!r}: {wildcard!r} must be {place}")
    return text


def misplaced_wildcard(text: str) -> str:
    """The wildcard that stands where none may in this filter, '#' or '+'; '' when all do. [MQTT-4.7.1-1, 4.7.1-2]"""
    levels = text.split("/")
    for i, level in enumerate(levels):
        if "#" in level and (level != "#" or i != len(levels) - 1):
            return "#"
        if "+" in level and level != "+":
            return "+"
    return ""


def _check_size(text: str, code: Code) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BrokerError(code, "it is not valid UTF-8") from None
    if size > MAX_TOPIC_BYTES or text.count("/") >= MAX_LEVELS:
        raise BrokerError(code, f"at most {MAX_TOPIC_BYTES} bytes and {MAX_LEVELS} levels")
    if _CONTROL.search(text):
        raise BrokerError(code, f"{text!r} holds a control character")


def matches(filter_: str, name: str) -> bool:
    """Does this one filter match this one name? [MQTT-4.7.1-1, 4.7.1-2, 4.7.2-1]"""
    wanted, given = filter_.split("/"), name.split("/")
    if name.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(given) or level not in ("+", given[i]):
            return False
    return len(wanted) == len(given)


def intersection(one: str, other: str) -> str | None:
    """The filter that matches exactly the names that both filters match; None when there is no such name."""
    if one.startswith("$") != other.startswith("$") and (one[0] in "+#" or other[0] in "+#"):
        return None
    left, right = one.split("/"), other.split("/")
    both: list[str] = []
    i = 0
    while True:
        a, b = left[i : i + 1], right[i : i + 1]
        if a == ["#"] or b == ["#"]:
            return "/".join(both + (right[i:] if a == ["#"] else left[i:])) or None
        if not a or not b:
            return "/".join(both) if a == b else None
        if a != b and "+" not in (a[0], b[0]):
            return None
        both += b if a == ["+"] else a
        i += 1


def covers(outer: str, inner: str) -> bool:
    """Does `outer` match every name that `inner` matches? A name is a filter that matches itself alone."""
    if inner.startswith("$") and outer[0] in "+#":
        return False
    wide, narrow = outer.split("/"), inner.split("/")
    if narrow[0] == "#":  # no name has no level
        narrow = ["+", "#"]
    for i, level in enumerate(wide):
        if level == "#":
            return True
        if i >= len(narrow) or narrow[i] == "#" or level not in ("+", narrow[i]):
            return False
    return len(wide) == len(narrow)


class _Node(Generic[T]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: list[T] = []


class Trie(Generic[T]):
    """Filters → values. `match` costs in proportion to the levels of the name and what matches, not to the filters."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, filter_: str, value: T) -> None:
        """Put `value` under a filter; the same pair may be added again and then matches twice."""
        node = self._root
        for level in filter_.split("/"):
            node = node.children.setdefault(level, _Node())
        node.values.append(value)

    def remove(self, filter_: str, value: T) -> None:
        """Take one such pair out again. Raises KeyError when it is not there."""
        path: list[tuple[_Node[T], str]] = []
        node = self._root
        for level in filter_.split("/"):
            path.append((node, level))
            node = node.children[level]
        try:
            node.values.remove(value)
        except ValueError:
            raise KeyError(filter_) from None
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.values or child.children:
                return
            del parent.children[level]

    def match(self, name: str) -> Iterator[T]:
        """Values of every filter that matches the name, a value once per matching filter."""
        levels = name.split("/")
        nodes: Iterable[_Node[T]] = [self._root]
        for i, level in enumerate(levels):
            wild = i > 0 or not name.startswith("$")
            below: list[_Node[T]] = []
            for node in nodes:
                if wild and (child := node.children.get("#")):
                    yield from child.values
                if wild and (child := node.children.get("+")):
                    below.append(child)
                if child := node.children.get(level):
                    below.append(child)
            nodes = below
        for node in nodes:
            yield from node.values
            if child := node.children.get("#"):
                yield from child.values
