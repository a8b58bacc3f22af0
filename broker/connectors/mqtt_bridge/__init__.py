"""Bridges: what goes to and comes from another MQTT broker by itself."""
