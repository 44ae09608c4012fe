"""Sources of text and tokens."""
