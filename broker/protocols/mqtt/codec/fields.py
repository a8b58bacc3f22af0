"""Data representation (§1.5): integers, text, binary data, both ways."""

import re
from struct import Struct

from broker.protocols.mqtt.codec.codes import Reason
from broker.protocols.mqtt.codec.error import MqttError, forbidden, malformed

MAX_VARINT = 268_435_455
MAX_FIELD = 65_535

_TWO = Struct(">H")
_FOUR = Struct(">I")
_DOUBTFUL = re.compile(
    "[\x01-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(i | 0xFFFE) + chr(i | 0xFFFF) for i in range(0, 0x110000, 0x10000))
    + "]"
)
"""Control codes and non-characters, which a sender SHOULD NOT use and a receiver MAY refuse (§1.5.4)."""


def unicode(data: bytes) -> str:
    """The text. Refuses ill-formed UTF-8, surrogates and NUL, keeps U+FEFF. [MQTT-1.5.4-1, 1.5.4-2, 1.5.4-3]"""
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        raise malformed("text is not well-formed UTF-8", "MQTT-1.5.4-1") from None
    if "\0" in text:
        raise malformed("text holds U+0000", "MQTT-1.5.4-2")
    return text


def check_plain(text: str, what: str) -> str:
    """The text, if it can stand in a name: identifiers, user names, topics and filters hold no control codes or
    non-characters here, which the standard lets us refuse; free text may."""
    if not text.isprintable() and (found := _DOUBTFUL.search(text)):
        raise malformed(f"{what} holds U+{ord(found[0]):04X}, a control code or non-character")
    return text


class Reader:
    """A cursor over the body of one packet. Every method moves it and raises MqttError at the end of the body."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def _take(self, size: int) -> int:
        at = self.at
        if at + size > self.end:
            raise malformed("the packet ends within a field")
        self.at = at + size
        return at

    def byte(self) -> int:
        """One byte."""
        at = self.at
        if at >= self.end:
            raise malformed("the packet ends within a field")
        self.at = at + 1
        return self.data[at]

    def two(self) -> int:
        """A two byte integer."""
        at = self._take(2)
        return self.data[at] << 8 | self.data[at + 1]

    def four(self) -> int:
        """A four byte integer."""
        at = self._take(4)
        return int.from_bytes(self.data[at : at + 4], "big")

    def varint(self) -> int:
        """A variable byte integer in its shortest form. [MQTT-1.5.5-1]"""
        number = 0
        for shift in (0, 7, 14, 21):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                if not byte and shift:
                    raise malformed("a variable byte integer is longer than need be", "MQTT-1.5.5-1")
                return number
        raise malformed("a variable byte integer has more than four bytes", "MQTT-1.5.5-1")

    def packet_id(self, rule: str = "MQTT-2.2.1-3") -> int:
        """A packet identifier, which is not 0. [MQTT-2.2.1-3]; of answers [MQTT-2.2.1-5, 2.2.1-6]"""
        number = self.two()
        if not number:
            raise forbidden("packet identifier 0", rule)
        return number

    def binary(self) -> bytes:
        """Binary data with its length in front."""
        data, at = self.data, self.at
        start = at + 2
        if start <= self.end:
            stop = start + (data[at] << 8 | data[at + 1])
            if stop <= self.end:
                self.at = stop
                return data[start:stop]
        raise malformed("the packet ends within a field")

    def text(self) -> str:
        """A UTF-8 string. [MQTT-1.5.4-1, 1.5.4-2]"""
        return unicode(self.binary())

    def pair(self) -> tuple[str, str]:
        """A UTF-8 string pair. [MQTT-1.5.7-1]"""
        try:
            return self.text(), self.text()
        except MqttError as fault:
            raise malformed(fault.detail, "MQTT-1.5.7-1") from None

    def rest(self) -> bytes:
        """All that is left."""
        at, self.at = self.at, self.end
        return self.data[at : self.end]

    def finish(self) -> None:
        """Refuse what is left over."""
        if self.at != self.end:
            raise malformed(f"{self.end - self.at} bytes too many in the packet")


def write_varint(number: int) -> bytes:
    """A variable byte integer."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number > MAX_VARINT:
        raise MqttError(Reason.PACKET_TOO_LARGE, f"{number} is over the limit of the protocol, {MAX_VARINT}")
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def write_two(number: int) -> bytes:
    """A two byte integer. Raises MqttError when it is none."""
    if not 0 <= number <= MAX_FIELD:
        raise malformed(f"{number} does not fit two bytes")
    return _TWO.pack(number)


def write_four(number: int) -> bytes:
    """A four byte integer."""
    return _FOUR.pack(number)


def write_packet_id(number: int) -> bytes:
    """A packet identifier. Raises MqttError when it is none. [MQTT-2.2.1-4]"""
    if not 0 < number <= MAX_FIELD:
        raise forbidden(f"packet identifier {number}", "MQTT-2.2.1-4")
    return _TWO.pack(number)


def write_binary(data: bytes) -> bytes:
    """Binary data with its length in front. Raises MqttError over 65,535 bytes."""
    if len(data) > MAX_FIELD:
        raise malformed(f"a field of {len(data)} bytes, the protocol has room for {MAX_FIELD}")
    return _TWO.pack(len(data)) + data


def write_text(text: str) -> bytes:
    """A UTF-8 string. Raises MqttError for lone surrogates, NUL and over 65,535 bytes. [MQTT-1.5.4-1, 1.5.4-2]"""
    if "\0" in text:
        raise malformed("text holds U+0000", "MQTT-1.5.4-2")
    try:
        return write_binary(text.encode())
    except UnicodeEncodeError:
        raise malformed("text holds a surrogate", "MQTT-1.5.4-1") from None


def write_pair(pair: tuple[str, str]) -> bytes:
    """A UTF-8 string pair."""
    return write_text(pair[0]) + write_text(pair[1])
