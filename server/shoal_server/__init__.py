"""The storage node of Shoal."""
