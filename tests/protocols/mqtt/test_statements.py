"""Every statement has its row, and a test that carries a statement's name fails when the rule is gone."""

from collections.abc import Callable

import pytest

from broker.protocols.mqtt.codec import (
    connection,
    decoder,
    fields,
    properties,
    publication,
    reasons,
    subscription,
    topics,
)
from broker.protocols.mqtt.codec.codes import Kind
from tests.protocols.mqtt.cases import BROKEN
from tests.protocols.mqtt.statements import TABLE, table
from tests.protocols.mqtt.vectors import needed

Patch = pytest.MonkeyPatch


@needed
def test_the_table_is_complete_and_true() -> None:
    made = table()
    assert made.count("\n| MQTT-") == 251
    assert TABLE.read_text() == made, "run python -m tests.protocols.mqtt.statements and look at what changed"


def lax_unicode(patch: Patch) -> None:
    patch.setattr(fields, "unicode", lambda data: str(data, "latin-1"))


def unicode_with_nul(patch: Patch) -> None:
    patch.setattr(topics, "unicode", lambda data: str(data, "utf-8"))


def any_varint(patch: Patch) -> None:
    def read(reader: fields.Reader) -> int:
        number = shift = 0
        while (byte := reader.byte()) >= 0x80:
            number, shift = number | (byte & 0x7F) << shift, shift + 7
        return number | byte << shift

    patch.setattr(fields.Reader, "varint", read)


def any_head(patch: Patch) -> None:
    patch.setattr(decoder, "kinds", lambda version, from_client: tuple(head >> 4 for head in range(256)))


def any_first(patch: Patch) -> None:
    patch.setattr(decoder, "check_first", lambda head: None)


def any_connect_flags(patch: Patch) -> None:
    patch.setattr(connection, "_check_flags", lambda flags, version: None)


def any_packet_id(patch: Patch) -> None:
    patch.setattr(fields.Reader, "packet_id", fields.Reader.two)


def any_name(patch: Patch) -> None:
    patch.setattr(topics, "check_name", lambda name: name)


def any_wildcards(patch: Patch) -> None:
    patch.setattr(topics, "misplaced_wildcard", lambda text: "")


def nothing_shared(patch: Patch) -> None:
    patch.setattr(topics, "shared", lambda text: None)


def any_request(patch: Patch) -> None:
    patch.setattr(subscription, "_check_request", lambda request: None)


def any_properties(patch: Patch) -> None:
    patch.setattr(properties, "_check_together", lambda found, place, dialect: None)


def any_reason(patch: Patch) -> None:
    every = {kind: frozenset(range(256)) for kind in Kind}
    patch.setattr(reasons, "FROM_CLIENT", every)
    patch.setattr(reasons, "Reason", int)


def any_written_id(patch: Patch) -> None:
    patch.setattr(publication, "write_packet_id", lambda number: number.to_bytes(2, "big"))


def any_connect_head(patch: Patch) -> None:
    patch.setattr(decoder, "check_connect", lambda head, version: None)


def forget() -> None:
    """The names that were checked before."""
    topics._remembered_name.cache_clear()
    topics._remembered_field.cache_clear()


MUTATIONS: dict[str, Callable[[Patch], None]] = {
    "MQTT-1.5.4-1": lax_unicode,
    "MQTT-1.5.4-2": unicode_with_nul,
    "MQTT-1.5.5-1": any_varint,
    "MQTT-2.1.3-1": any_head,
    "MQTT-2.2.1-3": any_packet_id,
    "MQTT-2.2.1-4": any_written_id,
    "MQTT-3.1.0-1": any_first,
    "MQTT-3.1.2-3": any_connect_flags,
    "MQTT-3.1.2-7": any_connect_flags,
    "MQTT-3.1.2-8": any_connect_flags,
    "MQTT-3.1.2-12": any_connect_head,
    "MQTT-3.3.2-2": any_name,
    "MQTT-3.3.4-6": any_properties,
    "MQTT-3.4.2-1": any_reason,
    "MQTT-3.6.1-1": any_head,
    "MQTT-3.8.3-4": any_request,
    "MQTT-4.7.1-1": any_wildcards,
    "MQTT-4.7.1-2": any_wildcards,
    "MQTT-4.8.2-1": nothing_shared,
    "MQTT-4.8.2-2": nothing_shared,
}
"""Statement to a way of breaking the code that keeps it."""


@pytest.mark.parametrize("statement", MUTATIONS)
def test_a_case_fails_when_its_rule_is_gone(statement: str, monkeypatch: Patch) -> None:
    cases = [case for case in BROKEN if case.statement == statement]
    forget()
    MUTATIONS[statement](monkeypatch)
    failed = 0
    try:
        for case in cases:
            try:
                case.check()
            except (AssertionError, pytest.fail.Exception):
                failed += 1
    finally:
        forget()
    assert failed
