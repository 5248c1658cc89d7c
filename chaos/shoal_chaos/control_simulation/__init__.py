"""The shard manager in simulation: its real process code, on simulated time, over simulated streams, beside real node cores.

Reading order: loop.py (asyncio on simulated time), streams.py (connections), rows.py (what managers remember), nodes.py,
managers.py, operators.py (what operators ask for), faults.py, checks.py (what must hold), run.py.
"""
