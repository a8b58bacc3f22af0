"""Topic names and filters (§4.7, §4.8). The grammar of wildcards is `core/topic`'s; here it gets MQTT's errors."""

from functools import lru_cache
from typing import NamedTuple

from broker.core.topic import misplaced_wildcard
from broker.protocols.mqtt.codec.error import malformed
from broker.protocols.mqtt.codec.fields import check_plain, unicode, write_text

MEMO_BYTES = 256
"""Names up to this size are remembered with their checked form, so that one that comes again costs a look-up; longer
ones are not, so that nobody fills the memory with them."""
MEMO_NAMES = 8192

_SHARE = "$share/"


class Share(NamedTuple):
    """`$share/group/filter`."""

    group: str
    filter: str


def check_name(name: str) -> str:
    """A topic name to publish to. [MQTT-4.7.3-1, 4.7.0-1, 3.3.2-2]"""
    if not name:
        raise malformed("an empty topic name", "MQTT-4.7.3-1")
    if "+" in name or "#" in name:
        raise malformed(f"a wildcard in the topic name {name!r}", "MQTT-3.3.2-2", "MQTT-4.7.0-1")
    return check_plain(name, "the topic name")


def check_filter(text: str) -> str:
    """A topic filter, `$share/…` included. [MQTT-4.7.1-1, 4.7.1-2, 4.7.3-1, 4.8.2-1, 4.8.2-2]"""
    share = shared(text)
    bare = text if share is None else share.filter
    if not bare:
        raise malformed("an empty topic filter", "MQTT-4.7.3-1")
    if wildcard := misplaced_wildcard(bare):
        rule = "MQTT-4.7.1-1" if wildcard == "#" else "MQTT-4.7.1-2"
        raise malformed(f"{wildcard!r} stands where none may in the filter {text!r}", rule)
    return check_plain(text, "the topic filter")


def shared(text: str) -> Share | None:
    """Group and filter of a shared subscription, None for another filter. Raises MqttError. [MQTT-4.8.2-1, 4.8.2-2]"""
    if not text.startswith(_SHARE):
        return None
    group, slash, bare = text[len(_SHARE) :].partition("/")
    if not group or not slash or not bare:
        raise malformed(f"{text!r} is not $share/group/filter", "MQTT-4.8.2-1")
    if "+" in group or "#" in group:
        raise malformed(f"a wildcard in the group's name of {text!r}", "MQTT-4.8.2-2")
    return Share(group, bare)


def read_name(data: bytes) -> str:
    """The topic name in these bytes, checked. Raises MqttError. [MQTT-3.3.2-1]"""
    return _remembered_name(data) if len(data) <= MEMO_BYTES else check_name(unicode(data))


def write_name(name: str) -> bytes:
    """The field of a topic name, with its length in front. Raises MqttError when it is no name. [MQTT-4.7.3-3]"""
    return _remembered_field(name) if len(name) <= MEMO_BYTES else write_text(check_name(name))


@lru_cache(MEMO_NAMES)
def _remembered_name(data: bytes) -> str:
    return check_name(unicode(data))


@lru_cache(MEMO_NAMES)
def _remembered_field(name: str) -> bytes:
    return write_text(check_name(name))
