"""MQTT 3.1, 3.1.1 and 5.0: `codec` reads and writes packets, `flow` remembers what a session must."""
