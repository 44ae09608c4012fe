"""Encoders from elsewhere, and onwards to other tasks."""
