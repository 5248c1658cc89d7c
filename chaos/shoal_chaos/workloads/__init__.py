"""Workloads of concurrent clients on a real cluster, whose histories the checkers judge."""
