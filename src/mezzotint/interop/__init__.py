"""Checkpoints of other projects: their layouts, and their weights in our encoders."""
