"""Sources of video."""
