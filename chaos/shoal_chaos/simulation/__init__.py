"""Simulated clusters: the real nodes, in one process, on simulated time, disks and a simulated network, from one seed.

Reading order: world/, invariants.py, cluster/, clients/, resharding/, scene.py (nodes alone, put together), faults/, mixes.py,
checks/, run.py; managers/ is what control_simulation and application_simulation have beside these (docs/decisions/0028).
"""
