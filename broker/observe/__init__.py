"""Floor 1: what every part may say about itself, to logs, to the service manager, to metrics."""
