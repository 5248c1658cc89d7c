"""Nodes: the real core, each in its process, on simulated disks and links."""
