"""Scenarios: a hypothesis about a cluster under faults, the experiment, and the comparison of the two."""
