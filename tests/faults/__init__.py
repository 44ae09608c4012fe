"""Faults that a run must survive: the table of rows, and the soak of kills, flips and bad files."""
