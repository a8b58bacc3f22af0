"""MQTT 3.1, 3.1.1 and 5.0. `codec` reads and writes packets, `flow` remembers what acknowledgements need: both pure.

Around them, by the journey of a message: `connection` is a socket, `reception` and `greeting` are CONNECT and CONNACK,
`incoming` hands each packet to the part that takes it; `intake` makes units of what is published, `gate` slows it; a
`session` has `filters`, a `tie` per reader or queue that feeds it, and a `sender` that makes packets of it;
`farewell` is the last one. `sessions` begins, resumes and ends them, `subscribing` changes their filters, `groups` are
shared subscriptions, `wills` speak for who is lost; `kept` says what is on disk. `backlogs` and `slow` bound what
clients that are away or do not read cost, `clients` shows them to operators, `state` is `$SYS`. `server` listens.
"""
