"""Clusters of real processes: how they are configured, started, asked and ended; and the parts by which they fail."""
