"""Postroom: one daemon through which systems talk, from one durable log."""

__version__ = "0.1.0"
