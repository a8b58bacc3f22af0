"""Floor 0, pure: what a message, a topic, a queue and a stream are. No I/O, no clock, no loop."""
