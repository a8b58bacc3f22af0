"""Rules of the door and how each can be broken by one change of its code, so that its test is seen to fail.

`make proof` breaks them one at a time in a copy of the code (`test_mutations`).
"""

from typing import NamedTuple

DOOR = "broker/protocols/mqtt"


class Mutation(NamedTuple):
    """In `file`, `kept` is what keeps the statement and stands there once; with `broken` in its place `test` fails."""

    statement: str
    test: str
    file: str
    kept: str
    broken: str

    def __str__(self) -> str:
        return self.statement


MUTATIONS = (
    Mutation(
        "MQTT-3.1.4-3",
        "test_live.py::test_a_second_connection_takes_over",
        "sessions.py",
        "before.connection.taken_over()",
        "before.connection.abort()",
    ),
    Mutation(
        "MQTT-3.1.2-4",
        "test_kept.py::test_clean_start_begins_anew",
        "sessions.py",
        "(packet.clean_start or not before.durable or",
        "(not before.durable or",
    ),
    Mutation(
        "MQTT-4.1.0-2",
        "test_kept.py::test_a_session_expires",
        "sessions.py",
        "session.away + session.expiry <= now",
        "session.away + 1_000_000 <= now",
    ),
    Mutation(
        "MQTT-3.1.2-10",
        "test_wills.py::test_not_when_the_client_takes_its_leave",
        "sessions.py",
        "self.wills.drop(session.client_id)",
        "self.wills.lost(session.client_id, session.expiry)",
    ),
    Mutation(
        "MQTT-3.1.3-9",
        "test_wills.py::test_not_when_the_client_is_back_before",
        "wills.py",
        "if client_id in self._due and self._wills[client_id][0].name != principal.name:",
        "if client_id in self._due:",
    ),
    Mutation(
        "MQTT-3.1.2-22",
        "test_wills.py::test_silence_publishes_it",
        "connection.py",
        "self.server.silence(self.keep_alive * GRACE)",
        "self.server.silence(self.keep_alive * 1_000)",
    ),
    Mutation(
        "MQTT-3.2.2-22",
        "test_bounds.py::test_server_keep_alive_and_silence",
        "greeting.py",
        "if keep_alive != packet.keep_alive:",
        "if not keep_alive:",
    ),
    Mutation(
        "MQTT-3.3.1-10",
        "test_retained.py::test_retain_handling",
        "subscribing.py",
        "how == IF_NEW and not granted.fresh",
        "how == IF_NEW and granted.fresh",
    ),
    Mutation(
        "MQTT-3.3.1-12",
        "test_retained.py::test_retain_as_published",
        "sender.py",
        "retain = tie is None or (heard.retain and wanted.retain_as_published)",
        "retain = tie is None or heard.retain",
    ),
    Mutation(
        "MQTT-3.1.2-25",
        "test_live.py::test_a_packet_over_the_readers_maximum_is_passed_over",
        "sender.py",
        "if size <= self._largest:",
        "if size:",
    ),
    Mutation(
        "MQTT-3.3.4-2",
        "test_live.py::test_overlapping_filters_bring_a_message_once_at_the_highest_qos",
        "filters.py",
        "max(found.qos for found in matching)",
        "min(found.qos for found in matching)",
    ),
    Mutation(
        "MQTT-3.3.4-8",
        "test_live.py::test_our_receive_maximum_is_kept",
        "intake.py",
        "connection.quota.take(qos, packet_id)",
        "pass",
    ),
    Mutation(
        "MQTT-4.3.3-7",
        "test_kept.py::test_qos_2_goes_on_although_the_message_expires_while_its_client_is_away",
        "session.py",
        "in gone.items() if state is Sent.QOS_2)",
        "in gone.items() if state is Sent.RELEASED)",
    ),
    Mutation(
        "MQTT-4.3.3-9",
        "test_forwarding.py::test_an_identifier_of_qos_2_that_was_refused_is_of_a_new_message",
        "intake.py",
        "self._session.inbound.failed(packet_id)",
        "pass",
    ),
    Mutation(
        "MQTT-4.3.3-10",
        "test_live.py::test_a_message_is_stored_once_when_qos_2_is_sent_again",
        "intake.py",
        "if do is not Do.STORE:",
        "if do is Do.WAIT:",
    ),
    Mutation(
        "MQTT-4.8.2-6",
        "test_shared.py::test_what_a_member_refuses_goes_to_nobody",
        "sender.py",
        "tie.refuse(offsets, ack.reason, said)",
        "pass",
    ),
)
"""One change each. What the codec keeps is broken in `test_statements`."""
