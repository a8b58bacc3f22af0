"""MQTT 3.1, 3.1.1 and 5.0. `codec` reads and writes packets, `flow` remembers what acknowledgements need: both pure.

Around them, by the journey of a message: `connection` is a socket, `greeting` what CONNECT and
CONNACK say; `intake` makes units of what
is published, `gate` slows it; a `session` has `filters`, a `tie` per reader or queue that feeds it, and a `sender` that
makes packets of what they bring. `sessions` begins, resumes and ends them, `subscribing` changes their filters,
`groups` are shared subscriptions; `retained`, `wills`; `kept` says what is on disk, `meaning` what a message's meta
says. `server` listens.
"""
