"""Nemeses: what is done to real processes, their links, clocks and disks, and undone again."""
