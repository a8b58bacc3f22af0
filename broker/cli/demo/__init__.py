"""`postroom demo`: the journey on real input, watched, and a kill -9 that loses nothing. Floor 7."""
