"""Clusters on one machine, as real processes."""
