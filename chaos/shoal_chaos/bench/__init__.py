"""The load generator behind `shoal bench`."""
