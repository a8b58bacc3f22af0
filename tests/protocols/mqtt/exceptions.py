"""Vectors that the codec alone cannot or need not satisfy: each by name, with the reason. The test fails too when one
is listed that needs no listing."""

SESSION = "which acknowledgement may follow is known by the session, not by the packet"
ALIAS = "which aliases were set, and up to which, is known by the session"
MANY = "the third PUBLISH with one identifier in a row is legal; that server's own policy closes"

UNCLOSED = {
    ("CONNECT", 5, "tiny max packet"): "legal; a server that cannot send a CONNACK in 2 bytes may close",
    ("CONNECT", 5, "unsupported authentication method"): "the methods are the server's",
    ("FLOW", 4, "QoS 1 PUBLISH-PUBREC"): SESSION,
    ("FLOW", 4, "QoS 1 PUBLISH-PUBCOMP"): SESSION,
    ("FLOW", 4, "QoS 2 PUBLISH-PUBACK"): SESSION,
    ("FLOW", 4, "QoS 2 PUBLISH-PUBCOMP"): SESSION,
    ("FLOW", 4, "QoS 2 PUBLISH-PUBREC-PUBREL-PUBACK"): SESSION,
    ("FLOW", 5, "QoS 1 PUBLISH-PUBREC"): SESSION,
    ("FLOW", 5, "QoS 1 PUBLISH-PUBCOMP"): SESSION,
    ("FLOW", 5, "QoS 2 PUBLISH-PUBACK"): SESSION,
    ("FLOW", 5, "QoS 2 PUBLISH-PUBCOMP"): SESSION,
    ("FLOW", 5, "QoS 2 PUBLISH-PUBREC-PUBREL-PUBACK"): SESSION,
    ("PUBLISH", 4, "34 QoS 2 Dup flow*3"): MANY,
    ("PUBLISH", 5, "34 QoS 2 Dup flow*3"): MANY,
    ("PUBLISH", 5, "topic alias > max topic alias"): ALIAS,
    ("PUBLISH", 5, "topic-alias (two byte integer) no topic"): ALIAS,
}
"""(file, version, name) of those that end with the connection open."""
