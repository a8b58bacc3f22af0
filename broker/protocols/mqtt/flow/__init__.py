"""What a session remembers of packets: identifiers, quotas, acknowledgements and aliases, as pure state. A pure floor.

`outbound` is for what we send and the peer acknowledges, `inbound` for what we receive, both with their states as
explicit tables and both as old as the session; `quota` and `aliases` are as old as the connection; `keep_alive` is
arithmetic. None of it knows sockets, the engine or the time: a server calls it between reading packets and committing,
and does what the answer says.
"""
