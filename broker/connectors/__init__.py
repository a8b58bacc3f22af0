"""Floor 4: what brings messages in (sources) and takes them out (sinks) by itself."""
