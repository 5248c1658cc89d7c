"""The shard manager in simulation: its real process code, on simulated time, over simulated streams, beside real node cores.

Nodes, managers and their rows are in simulation/managers, what must hold in simulation/checks/control_plane.py. Here:
operators.py (what operators ask for), faults.py, run.py.
"""
