"""Floor 3: sockets before a protocol speaks on them. Where to listen, how many connections, how long they may idle."""
