"""Files: the drop folder that turns rows into messages."""
