"""Shard managers in simulation: their real process code, beside nodes that take connections."""
