"""Floor 2: what holds the log and hands messages out. `base` is the seam; `sqlite` keeps it on one machine."""
