"""The native protocol: see PROTOCOL.md."""
