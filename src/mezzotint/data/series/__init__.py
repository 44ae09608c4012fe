"""Sources of sensor series."""
