"""Bytes to packets and back, for MQTT 3.1, 3.1.1 and 5.0, for servers and clients, without sockets. A pure floor.

    decoder = Decoder()                       # of a server: waits for CONNECT
    for packet in decoder.feed(data): ...     # any split of the stream; raises MqttError
    for packet in decoder.admit(): ...        # the client may stay: what it sent meanwhile
    transport.write(encode(Connack(), decoder.version))

    fanout = Fanout(topic, body)              # one message for many
    start, rest = fanout.ends(V5, qos=1)
    transport.write(start + packet_id + rest)

What holds:

- A packet that is returned keeps every rule that bytes alone can break: form, UTF-8, flags, wildcards, identifiers,
  which property may be where, how often and with what value, which reason code may come from whom.
  `tests/protocols/mqtt/STATEMENTS.md` lists the normative statements. What needs memory of earlier packets is the
  session's: identifiers in use, aliases, quotas.
- Every limit is checked before memory is taken for what it limits, the size of a packet from its fixed header alone,
  with a small one before the client is admitted.
- The first `MqttError` ends the stream. It carries the packets that came before, the reason code for CONNACK or
  DISCONNECT, and the statements that were broken.
- Where the standard leaves a choice: names (client identifiers, user names, topics, filters, methods) hold no control
  codes or non-characters, free text may (§1.5.4); a remaining length is in its shortest form and `$share/…` is a shared
  subscription in all versions; 3.1 may set DUP and leave announced names out, as it says.
- A plain acknowledgement has no properties and means success; several of one kind in a row are one `Ack`.

Files: `packets` the values, `codes` the enumerations; `decoder` the way in; `encoder`, `fitting` (for receivers with
limits) and `fanout` the ways out; `heads` the first byte; `connection`, `publication` and `subscription` the bodies;
`properties`, `reasons`, `topics` and `fields` what bodies are made of; `dialect` version and limits; `error` the error.
"""
