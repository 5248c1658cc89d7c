"""Faults, workloads and verdicts: simulation, checkers, the load generator and the demonstration."""
